//! Bytes as they passed, folded: each piece without what it has in common with the piece before it at both ends.
//!
//! Of an event with one token, 250 bytes from llama-server, that leaves some 15, for the price of comparing them: a record holds an
//! answer of ten thousand tokens, and none has to be parsed while it passes.

#[cfg(test)]
mod tests;

/// Longer pieces are cut into such; their lengths fit 16 bits.
const PIECE: usize = 16 * 1024;

/// Longer pieces are no single events, and the next one is not compared with them.
const COMPARED: usize = 2 * 1024;

/// Three lengths of 16 bits: what is shared at the begin, what at the end, what follows.
const LENGTHS: usize = 6;

/// What it takes to spell out the pieces; a tape of equal events must not become as long as it likes.
const UNFOLDED: usize = 4 << 20;

/// The pieces so far.
#[derive(Debug, Default)]
pub(super) struct Tape {
    bytes: Vec<u8>,
    latest: Vec<u8>,
    length: usize,
}

/// What a piece shares with the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Fold {
    head: usize,
    tail: usize,
}

impl Tape {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that it stands for.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Take what passes, as far as `room` lets it grow: that is told the size that is wanted, and says which one may be.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut room: impl FnMut(&mut Vec<u8>, usize) -> usize,
    ) {
        for piece in bytes.chunks(PIECE) {
            if self.length + piece.len() > UNFOLDED {
                return;
            }
            let fold = self.fold(piece);
            let wanted = self.bytes.len() + LENGTHS + piece.len() - fold.head - fold.tail;
            let allowed = room(&mut self.bytes, wanted);
            if wanted <= allowed {
                self.write(piece, fold);
            } else {
                let left = allowed.saturating_sub(self.bytes.len() + LENGTHS);
                self.write(piece.get(..left).unwrap_or(piece), Fold::default());
                return;
            }
        }
    }

    fn fold(&self, piece: &[u8]) -> Fold {
        let head = shared_head(&self.latest, piece);
        // The two may not overlap in either piece.
        let most = self.latest.len().min(piece.len()) - head;
        Fold { head, tail: shared_tail(&self.latest, piece).min(most) }
    }

    fn write(&mut self, piece: &[u8], fold: Fold) {
        let middle = piece.get(fold.head..piece.len() - fold.tail).unwrap_or_default();
        for length in [fold.head, fold.tail, middle.len()] {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            self.bytes.extend_from_slice(&length.to_le_bytes());
        }
        self.bytes.extend_from_slice(middle);
        self.length += piece.len();
        self.latest.clear();
        if piece.len() <= COMPARED {
            self.latest.extend_from_slice(piece);
        }
    }

    /// Nothing more comes.
    pub(super) fn close(&mut self) {
        self.bytes.shrink_to_fit();
        self.latest = Vec::new();
    }

    /// All pieces, in order.
    pub(super) fn play(&self, mut take: impl FnMut(&[u8])) {
        let mut latest: Vec<u8> = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some((lengths, behind)) = rest.split_first_chunk::<LENGTHS>() {
            let [head, tail, middle] = [0, 2, 4].map(|at| {
                let pair = lengths.get(at..at + 2).and_then(|pair| pair.first_chunk());
                usize::from(u16::from_le_bytes(pair.copied().unwrap_or_default()))
            });
            let Some((middle, behind)) = behind.split_at_checked(middle) else { return };
            let head = latest.get(..head).unwrap_or_default();
            let tail = latest.get(latest.len().saturating_sub(tail)..).unwrap_or_default();
            let piece = [head, middle, tail].concat();
            take(&piece);
            latest = if piece.len() <= COMPARED { piece } else { Vec::new() };
            rest = behind;
        }
    }

    /// All of it, as it passed.
    pub(super) fn unfolded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        self.play(|piece| bytes.extend_from_slice(piece));
        bytes
    }
}

/// Compared at once, by vector instructions.
const BLOCK: usize = 16;

fn shared_head(one: &[u8], other: &[u8]) -> usize {
    let (blocks, _) = one.as_chunks::<BLOCK>();
    let (other_blocks, _) = other.as_chunks::<BLOCK>();
    let pairs = blocks.iter().zip(other_blocks);
    let equal = pairs.take_while(|(one, other)| one == other).count() * BLOCK;
    let one = one.get(equal..).unwrap_or_default();
    let other = other.get(equal..).unwrap_or_default();
    equal + one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

fn shared_tail(one: &[u8], other: &[u8]) -> usize {
    let (_, blocks) = one.as_rchunks::<BLOCK>();
    let (_, other_blocks) = other.as_rchunks::<BLOCK>();
    let pairs = blocks.iter().rev().zip(other_blocks.iter().rev());
    let equal = pairs.take_while(|(one, other)| one == other).count() * BLOCK;
    let one = one.get(..one.len() - equal).unwrap_or_default();
    let other = other.get(..other.len() - equal).unwrap_or_default();
    let pairs = one.iter().rev().zip(other.iter().rev());
    equal + pairs.take_while(|(one, other)| one == other).count()
}
