//! Where a field is in a structure of the running kernel, from the kernel's own type information
//! (BTF, <https://docs.kernel.org/bpf/btf.html>).

use std::path::Path;

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNCTION: u32 = 12;

/// How deep structures without a name may be inside each other: the kernel's are two or three deep, and
/// a damaged file must not lead in a circle.
const MAX_NESTING: u32 = 8;

/// The offset in bytes of `field` in `struct name`; `None` when either is missing, the field is a bit
/// field, or the information can't be read.
pub(super) fn field_offset(name: &str, field: &str) -> Option<u32> {
    let btf = std::fs::read(Path::new("/sys/kernel/btf/vmlinux")).ok()?;
    Btf::parse(&btf)?.field_offset(name, field)
}

/// The number of the kernel's function with this name; `None` when it has none, or the information can't be read.
pub(super) fn function_id(name: &str) -> Option<u32> {
    let btf = std::fs::read(Path::new("/sys/kernel/btf/vmlinux")).ok()?;
    Btf::parse(&btf)?.function_id(name)
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(data.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header_len = word(data, 4)? as usize;
        let section = |at: usize| {
            let start = header_len.checked_add(word(data, at)? as usize)?;
            data.get(start..start.checked_add(word(data, at + 4)? as usize)?)
        };
        Some(Self {
            types: section(8)?,
            strings: section(16)?,
        })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.split(|b| *b == 0).next()
    }

    fn function_id(&self, name: &str) -> Option<u32> {
        let position = self.type_positions()?.iter().position(|at| {
            self.kind(*at) == Some(KIND_FUNCTION)
                && word(self.types, *at).and_then(|n| self.name(n)) == Some(name.as_bytes())
        })?;
        u32::try_from(position + 1).ok()
    }

    fn field_offset(&self, name: &str, field: &str) -> Option<u32> {
        let types = self.type_positions()?;
        let position = types.iter().find(|at| {
            self.kind(**at) == Some(KIND_STRUCT)
                && word(self.types, **at).and_then(|n| self.name(n)) == Some(name.as_bytes())
        })?;
        let bits = self.bit_offset(&types, *position, field, MAX_NESTING)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Where each type begins; type number 1 is the first.
    fn type_positions(&self) -> Option<Vec<usize>> {
        let (mut positions, mut at) = (Vec::new(), 0);
        while at < self.types.len() {
            positions.push(at);
            let info = word(self.types, at + 4)?;
            at += 12 + trailing((info >> 24) & 0x1f, (info & 0xffff) as usize)?;
        }
        Some(positions)
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some((word(self.types, at + 4)? >> 24) & 0x1f)
    }

    /// Where a field is in the structure or union at `at`, also when it is in one without a name inside.
    fn bit_offset(&self, types: &[usize], at: usize, field: &str, nesting: u32) -> Option<u32> {
        let info = word(self.types, at + 4)?;
        let has_bit_fields = info >> 31 != 0;
        for member in 0..(info & 0xffff) as usize {
            let at = at + 12 + member * 12;
            let name = self.name(word(self.types, at)?)?;
            let offset = word(self.types, at + 8)?;
            let (size, bits) = match has_bit_fields {
                true => (offset >> 24, offset & 0xff_ffff),
                false => (0, offset),
            };
            if name == field.as_bytes() {
                return (size == 0).then_some(bits);
            }
            if !name.is_empty() || nesting == 0 {
                continue;
            }
            let number = word(self.types, at + 4)? as usize;
            let Some(inner) = number.checked_sub(1).and_then(|i| types.get(i)) else {
                continue;
            };
            if matches!(self.kind(*inner), Some(KIND_STRUCT | KIND_UNION))
                && let Some(found) = self.bit_offset(types, *inner, field, nesting - 1)
            {
                return Some(bits + found);
            }
        }
        None
    }
}

/// How many bytes follow a type's three words.
fn trailing(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,                                 // INT, VAR, DECL_TAG
        3 => 12,                                          // ARRAY
        KIND_STRUCT | KIND_UNION | 15 | 19 => count * 12, // also DATASEC, ENUM64
        6 | 13 => count * 8,                              // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(
        data.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_tells_its_fields() {
        // The first member of every socket is the common part.
        assert_eq!(field_offset("sock", "__sk_common"), Some(0));
        // In a union without a name.
        assert!(field_offset("sock_common", "skc_tw_rcv_nxt").is_some_and(|o| o > 0 && o % 4 == 0));
        assert_eq!(field_offset("tcp_timewait_sock", "no_such_field"), None);
        assert_eq!(field_offset("no_such_struct", "x"), None);
        assert!(function_id("tcp_v4_rcv").is_some_and(|id| id > 0));
        assert_eq!(function_id("no_such_function"), None);
    }

    #[test]
    fn cut_or_foreign_data_is_refused() {
        let btf = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        assert!(Btf::parse(&btf[..100]).is_none());
        assert!(Btf::parse(&[0; 64]).is_none());
        assert!(Btf::parse(&[]).is_none());
    }
}
