//! Calls of a function of the kernel's in the filter, which the loader library cannot link.
//!
//! The filter is compiled with a call of a helper number that no kernel has. Here such calls become calls of the
//! kernel's function, by its number in the kernel's own type information, or, where the kernel doesn't have it, an
//! assignment of an error code to the register that a call's result is in.

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, SectionKind};

/// BPF_JMP | BPF_CALL: a call of the helper whose number is the immediate.
const CALL: [u8; 4] = [0x85, 0, 0, 0];
/// The same with BPF_PSEUDO_KFUNC_CALL as source register: of the kernel's function with this number.
const KERNEL_CALL: [u8; 4] = [0x85, 0x20, 0, 0];
/// BPF_ALU64 | BPF_MOV | BPF_K to register 0.
const SET_RESULT: [u8; 4] = [0xb7, 0, 0, 0];

/// Replaces every call of helper `number` in the object by one of the kernel's function `id`, or, without one, by the
/// result EOPNOTSUPP. `None` when the object can't be read or has no such call.
pub(super) fn link(object: &[u8], number: u32, id: Option<u32>) -> Option<Vec<u8>> {
    let mut call = [0; 8];
    call[..4].copy_from_slice(&CALL);
    call[4..].copy_from_slice(&number.to_ne_bytes());
    let (code, value) = match id {
        Some(id) => (KERNEL_CALL, id),
        None => (SET_RESULT, (-libc::EOPNOTSUPP) as u32),
    };
    let mut linked = object.to_vec();
    let mut found = false;
    for section in ElfFile64::<object::Endianness>::parse(object)
        .ok()?
        .sections()
    {
        let Some((start, size)) = section.file_range() else {
            continue;
        };
        if section.kind() != SectionKind::Text {
            continue;
        }
        let start = usize::try_from(start).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        for instruction in linked.get_mut(start..end)?.chunks_exact_mut(8) {
            if instruction == call {
                instruction[..4].copy_from_slice(&code);
                instruction[4..].copy_from_slice(&value.to_ne_bytes());
                found = true;
            }
        }
    }
    found.then_some(linked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_the_call_is_refused() {
        assert!(link(b"no object", 1, Some(1)).is_none());
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(link(&own, 0x7fff_0001, Some(1)).is_none());
    }
}
