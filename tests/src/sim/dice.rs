//! Chance, from a seed and nothing else.

/// SplitMix64: fixed for ever, so that a seed means the same history on every machine.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// The same seed throws the same.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end`, without it. 0 if there is nothing to choose from.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: no division, and even enough.
        ((u128::from(self.any()) * u128::from(end)) >> 64) as u64
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True once in so many throws; never for 0.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// Around `mean`, often little and sometimes much: at most eight times as much.
    pub(super) fn around(&mut self, mean: u64) -> u64 {
        // A geometric number of halves, spread evenly between powers of two.
        let zeros = self.any().trailing_zeros().min(3);
        self.below((mean << zeros).max(1))
    }

    /// Sixteen bytes.
    pub(super) fn bytes(&mut self) -> [u8; 16] {
        (u128::from(self.any()) << 64 | u128::from(self.any())).to_be_bytes()
    }
}
