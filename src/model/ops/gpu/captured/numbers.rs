//! The numbers that a captured step reads.

use std::ops::Range;

use repertoire_kernels::cuda::Draw;

/// Where a step's u32 numbers are among those brought to the GPU, by what they say.
pub enum Numbers {
    /// Of each token.
    Id,
    Position,
    Store,
    Slot,
    Length,
    Follows,
    /// Three each, as many as tokens, whatever they hold: those without lines are nobody's.
    Tiles,
    /// Of each row that asks: which token's line.
    Asked,
    AskedSlot,
    AskedTiles,
    /// [`Draw::WORDS`] each.
    Draws,
}

impl Numbers {
    /// All of them, for so many tokens.
    pub const fn all(size: usize) -> usize {
        (Self::Draws as usize + 4 + Draw::WORDS) * size
    }

    /// Where they are.
    pub const fn at(self, size: usize) -> Range<usize> {
        // Tiles are three numbers each.
        let (first, count) = match self {
            Self::Id | Self::Position | Self::Store | Self::Slot | Self::Length | Self::Follows => (self as usize, 1),
            Self::Tiles => (6, 3),
            Self::Asked => (9, 1),
            Self::AskedSlot => (10, 1),
            Self::AskedTiles => (11, 3),
            Self::Draws => (14, Draw::WORDS),
        };
        first * size..(first + count) * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lie_side_by_side() {
        use Numbers::*;
        let each = [Id, Position, Store, Slot, Length, Follows, Tiles, Asked, AskedSlot, AskedTiles, Draws];
        let mut end = 0;
        for range in each.map(|what| what.at(24)) {
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!(end, Numbers::all(24));
    }
}
