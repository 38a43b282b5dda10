//! TCP sequence numbers and their wrapping arithmetic (RFC 9293 §3.4).

/// A TCP sequence number in host byte order. Every operation wraps; none panics.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Seq(pub u32);

impl Seq {
    /// The number `n` bytes further on.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The number `n` bytes further back.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n))
    }

    /// The distance from `earlier` to `self`, modulo 2^32.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` lies after `other`: the signed distance is positive (RFC 9293 §3.4).
    #[inline(always)]
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) > 0
    }

    /// Whether `self` is `other` or lies after it.
    #[inline(always)]
    #[must_use]
    pub const fn is_at_or_after(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) >= 0
    }
}

/// Whether timestamp `a` is later than timestamp `b` (RFC 7323 §5.2: the same wrapping rule).
#[inline(always)]
#[must_use]
pub const fn timestamp_is_later(a: u32, b: u32) -> bool {
    Seq(a).is_after(Seq(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_survives_the_wrap() {
        let last = Seq(u32::MAX);
        assert!(last.plus(1).is_after(last));
        assert!(!last.is_after(last.plus(1)));
        assert_eq!(last.plus(5).since(last), 5);
        assert_eq!(Seq(3).minus(5), Seq(u32::MAX - 1));
    }

    proptest! {
        #[test]
        fn a_shift_keeps_order(a: u32, step in 1u32..0x7fff_ffff, shift: u32) {
            let (x, y) = (Seq(a), Seq(a).plus(step));
            prop_assert!(y.is_after(x));
            prop_assert!(y.plus(shift).is_after(x.plus(shift)));
            prop_assert!(!x.is_after(y));
        }
    }
}
