//! Linear layers that read the same input, with the adapters of a step, in one go.
//!
//! One list of tasks, so that threads are called once: pieces of the base's products, which are bound by arithmetic and
//! meanwhile fetch the adapters' thin matrices, which are bound by memory; then the shrinks (`x·Aᵀ`); then, when all of those
//! are done, the expansions (`y += B·(x·Aᵀ)`) and what comes after them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::Floats;
use super::ahead::{Ahead, Stretch};
use super::expand::Expansion;
use super::floats::each_type;
use super::product::{Product, ROW_PANEL, stretches};
use super::tasks::{self, SERIAL, Shared, TASK_BYTES};
use super::vector::{add_row, scale_row};

/// Lines up to which a product is bound by memory.
const FEW_LINES: usize = 16;

/// One layer of a group: `y = x·Wᵀ + bias`, changed by `patches`.
pub struct Member<'a> {
    /// [lines, inputs].
    pub x: &'a [f32],
    /// [outputs, inputs].
    pub weight: Floats<'a>,
    /// `[outputs]`.
    pub bias: Option<Floats<'a>>,
    /// What adapters do, by lines in order. Lines in none of them are the base's.
    pub patches: Vec<Patch<'a>>,
    /// [lines, outputs]; overwritten.
    pub y: &'a mut [f32],
}

/// What an adapter does to neighbouring lines: `rescale ⊙ (scale ⊙ (W·x + B(A·x)) + bias)`, with parts that may be absent.
#[derive(Clone)]
pub struct Patch<'a> {
    pub lines: Range<usize>,
    /// [outputs, inputs], in place of the member's.
    pub weight: Option<Floats<'a>>,
    /// `[outputs]`, in place of the member's.
    pub bias: Option<Floats<'a>>,
    pub low_rank: Option<LowRank<'a>>,
    /// `[outputs]`.
    pub scale: Option<Floats<'a>>,
    /// `[outputs]`.
    pub rescale: Option<Floats<'a>>,
}

/// `scale · B(A·x)`.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// [rank, inputs].
    pub a: Floats<'a>,
    /// [outputs, rank].
    pub b: Floats<'a>,
    pub rank: usize,
    pub scale: f32,
}

/// How many numbers of scratch memory [`linear_group`] needs.
pub fn scratch_len(members: &[Member<'_>]) -> usize {
    members.iter().flat_map(|member| &member.patches).map(Patch::shrunk_len).sum()
}

/// Computes all members for an `x` of `inputs` numbers a line. `scratch` is of [`scratch_len`].
/// With `measure`, answers which share of the threads' time adapters took.
///
/// # Panics
/// If a slice's length does not fit the shape.
pub fn linear_group(inputs: usize, members: &mut [Member<'_>], scratch: &mut [f32], measure: bool) -> f64 {
    let mut at = 0;
    let members: Vec<Layer<'_>> = members.iter_mut().map(|member| Layer::new(member, inputs, &mut at)).collect();
    assert!(scratch.len() >= at, "scratch is as long as it has to be");
    let pieces: usize = members.iter().map(|member| member.outputs.div_ceil(member.piece)).sum();
    let group = Group {
        inputs,
        shrunk: Shared(scratch.as_mut_ptr()),
        pieces,
        shrinks: members.iter().flat_map(|member| member.shrinks(inputs)).collect(),
        expansions: members.iter().flat_map(Layer::expansions).collect(),
        thin: members.iter().flat_map(Layer::thin).collect(),
        members: &members,
        done: AtomicUsize::new(0),
        clock: measure.then(Clock::default),
    };
    let work: usize = members.iter().map(|member| member.lines * inputs * member.outputs).sum();
    let shrunk = pieces + group.shrinks.len();
    tasks::run(shrunk + group.expansions.len(), work < SERIAL, |i| {
        if i < pieces {
            group.piece(i);
        } else if i < shrunk {
            group.shrink(&group.shrinks[i - pieces]);
        } else {
            group.expand(&group.expansions[i - shrunk]);
        }
    });
    group.clock.map_or(0.0, |clock| clock.share())
}

/// A member with its place among the tasks.
struct Layer<'a> {
    x: &'a [f32],
    weight: Floats<'a>,
    bias: Option<Floats<'a>>,
    /// Each with the place of its shrunk lines in scratch memory.
    patches: Vec<(&'a Patch<'a>, usize)>,
    y: Shared,
    lines: usize,
    outputs: usize,
    /// Columns of a piece.
    piece: usize,
}

/// Columns of what an adapter's thin matrix makes of some lines: of `x·Aᵀ` in a shrink, of `y` in an expansion.
struct Thin<'a> {
    member: &'a Layer<'a>,
    patch: &'a Patch<'a>,
    low_rank: LowRank<'a>,
    /// Where the lines' `x·Aᵀ` is in scratch memory.
    shrunk: usize,
    lines: Range<usize>,
    columns: Range<usize>,
}

struct Group<'a> {
    inputs: usize,
    shrunk: Shared,
    members: &'a [Layer<'a>],
    pieces: usize,
    shrinks: Vec<Thin<'a>>,
    expansions: Vec<Thin<'a>>,
    /// The thin matrices, in the order in which they are read.
    thin: Vec<Stretch>,
    /// Pieces and shrinks that are done.
    done: AtomicUsize,
    clock: Option<Clock>,
}

impl Patch<'_> {
    fn shrunk_len(&self) -> usize {
        self.low_rank.map_or(0, |low_rank| self.lines.len() * low_rank.rank)
    }

    fn check(&self, inputs: usize, outputs: usize) {
        for row in [self.bias, self.scale, self.rescale].into_iter().flatten() {
            assert_eq!(row.len(), outputs, "a row is [outputs]");
        }
        assert!(self.weight.is_none_or(|w| w.len() == outputs * inputs), "w is [outputs, inputs]");
        if let Some(low_rank) = self.low_rank {
            assert_eq!(low_rank.a.len(), low_rank.rank * inputs, "a is [rank, inputs]");
            assert_eq!(low_rank.b.len(), outputs * low_rank.rank, "b is [outputs, rank]");
        }
    }
}

impl<'a> Layer<'a> {
    /// Checks every shape. `scratch` counts the scratch memory given away.
    fn new(member: &'a mut Member<'_>, inputs: usize, scratch: &mut usize) -> Self {
        let outputs = member.weight.len() / inputs.max(1);
        let lines = member.x.len() / inputs.max(1);
        assert_eq!(member.x.len(), lines * inputs, "x is [lines, inputs]");
        assert_eq!(member.weight.len(), outputs * inputs, "w is [outputs, inputs]");
        assert_eq!(member.y.len(), lines * outputs, "y is [lines, outputs]");
        assert!(member.bias.is_none_or(|bias| bias.len() == outputs), "a row is [outputs]");
        let mut end = 0;
        let mut place = |patch: &'a Patch<'_>| {
            patch.check(inputs, outputs);
            assert!(end <= patch.lines.start && patch.lines.end <= lines, "patches are in the order of lines");
            end = patch.lines.end;
            let at = *scratch;
            *scratch += patch.shrunk_len();
            (patch, at)
        };
        Self {
            x: member.x,
            weight: member.weight,
            bias: member.bias,
            patches: member.patches.iter().map(&mut place).collect(),
            y: Shared(member.y.as_mut_ptr()),
            lines,
            outputs,
            piece: tasks::columns(outputs, inputs * member.weight.width()),
        }
    }

    fn low_ranks(&self) -> impl Iterator<Item = (&'a Patch<'a>, LowRank<'a>, usize)> {
        self.patches.iter().filter_map(|&(patch, at)| Some((patch, patch.low_rank?, at)))
    }

    fn shrinks(&'a self, inputs: usize) -> impl Iterator<Item = Thin<'a>> {
        self.low_ranks().flat_map(move |(patch, low_rank, shrunk)| {
            self.cut(patch, low_rank, shrunk, low_rank.rank, inputs * low_rank.a.width())
        })
    }

    fn expansions(&'a self) -> impl Iterator<Item = Thin<'a>> {
        self.low_ranks().flat_map(move |(patch, low_rank, shrunk)| {
            self.cut(patch, low_rank, shrunk, self.outputs, low_rank.rank * low_rank.b.width())
        })
    }

    /// The tasks of a thin matrix with so many columns, of `bytes` weights each.
    fn cut(
        &'a self,
        patch: &'a Patch<'a>,
        low_rank: LowRank<'a>,
        shrunk: usize,
        columns: usize,
        bytes: usize,
    ) -> impl Iterator<Item = Thin<'a>> {
        let step = (TASK_BYTES / bytes.max(1)).next_multiple_of(8);
        let lines = patch.lines.clone();
        lines.clone().step_by(ROW_PANEL).flat_map(move |from| {
            let to = lines.end.min(from + ROW_PANEL);
            let shrunk = shrunk + (from - lines.start) * low_rank.rank;
            (0..columns).step_by(step).map(move |column| Thin {
                member: self,
                patch,
                low_rank,
                shrunk,
                lines: from..to,
                columns: column..columns.min(column + step),
            })
        })
    }

    fn thin(&self) -> impl Iterator<Item = Stretch> {
        // With many lines, arithmetic takes so long that fetching ahead only pushes out what is in use.
        let few = self.low_ranks().filter(|(patch, ..)| patch.lines.len() <= FEW_LINES);
        few.flat_map(|(_, low_rank, _)| [low_rank.a, low_rank.b]).map(|matrix| Stretch::new(matrix))
    }
}

impl Group<'_> {
    /// Columns of one member: the base's product, and all that is done to lines without a low-rank patch.
    fn piece(&self, index: usize) {
        let timer = self.clock.as_ref().map(|_| Instant::now());
        let mut first = index;
        let mut members = self.members.iter();
        let member = loop {
            let Some(member) = members.next() else { return };
            let pieces = member.outputs.div_ceil(member.piece);
            if first < pieces {
                break member;
            }
            first -= pieces;
        };
        let from = first * member.piece;
        let columns = from..member.outputs.min(from + member.piece);
        self.products(member, &columns, self.ahead(index, member, columns.len()));
        let mut line = 0;
        for (patch, _) in &member.patches {
            self.finish(member, line..patch.lines.start, &columns, None);
            if patch.low_rank.is_none() {
                self.finish(member, patch.lines.clone(), &columns, Some(patch));
            }
            line = patch.lines.end;
        }
        self.finish(member, line..member.lines, &columns, None);
        self.done.fetch_add(1, Ordering::Release);
        self.note(timer, |clock| &clock.base);
    }

    /// What piece `index` fetches of the thin matrices: all pieces together fetch all.
    fn ahead(&self, index: usize, member: &Layer<'_>, columns: usize) -> Ahead<'_> {
        let bytes: usize = self.thin.iter().map(|stretch| stretch.bytes).sum();
        let share = |index: usize| bytes * index / self.pieces;
        Ahead::new(&self.thin, share(index), share(index + 1), stretches(member.lines, self.inputs, columns))
    }

    fn shrink(&self, task: &Thin<'_>) {
        let timer = self.clock.as_ref().map(|_| Instant::now());
        let x = &task.member.x[task.lines.start * self.inputs..task.lines.end * self.inputs];
        let (y, rows, inputs, outputs) =
            (self.shrunk.at(task.shrunk), task.lines.len(), self.inputs, task.low_rank.rank);
        each_type!(task.low_rank.a, |w| {
            let mut product = Product { x, w, y, rows, inputs, outputs, ahead: Ahead::default() };
            // SAFETY: shapes were checked; each task has lines and columns of its own.
            unsafe { product.columns(task.columns.start, task.columns.end) };
        });
        self.done.fetch_add(1, Ordering::Release);
        self.note(timer, |clock| &clock.adapters);
    }

    fn expand(&self, task: &Thin<'_>) {
        self.wait();
        // Waiting for the other threads is neither part's own.
        let timer = self.clock.as_ref().map(|_| Instant::now());
        let Thin { member, low_rank: LowRank { b, rank, scale, .. }, .. } = *task;
        // SAFETY: the place is the patch's own in scratch memory, and all tasks that wrote it are done.
        let shrunk = unsafe { std::slice::from_raw_parts(self.shrunk.at(task.shrunk), task.lines.len() * rank) };
        let expansion = Expansion { shrunk, b, rank, outputs: member.outputs, scale };
        let y = member.y.at(task.lines.start * member.outputs);
        // SAFETY: shapes were checked; each expansion has lines and columns of its own, and all pieces are done.
        unsafe { expansion.add_to(y, task.columns.start, task.columns.end) };
        self.finish(member, task.lines.clone(), &task.columns, Some(task.patch));
        self.note(timer, |clock| &clock.adapters);
    }

    /// `x·Wᵀ`: one product for every run of lines with the same weight.
    fn products<'b>(&'b self, member: &'b Layer<'b>, columns: &Range<usize>, mut ahead: Ahead<'b>) {
        let mut start = 0;
        for (patch, _) in &member.patches {
            let Some(own) = patch.weight else { continue };
            self.product(member, member.weight, start..patch.lines.start, columns, &mut ahead);
            self.product(member, own, patch.lines.clone(), columns, &mut ahead);
            start = patch.lines.end;
        }
        self.product(member, member.weight, start..member.lines, columns, &mut ahead);
    }

    fn product<'b>(
        &'b self,
        member: &'b Layer<'b>,
        weight: Floats<'b>,
        lines: Range<usize>,
        columns: &Range<usize>,
        ahead: &mut Ahead<'b>,
    ) {
        if lines.is_empty() {
            return;
        }
        let x = &member.x[lines.start * self.inputs..lines.end * self.inputs];
        let y = member.y.at(lines.start * member.outputs);
        let (rows, inputs, outputs) = (lines.len(), self.inputs, member.outputs);
        each_type!(weight, |w| {
            let mut product = Product { x, w, y, rows, inputs, outputs, ahead: std::mem::take(ahead) };
            // SAFETY: shapes were checked; each task has columns of its own.
            unsafe { product.columns(columns.start, columns.end) };
            *ahead = product.ahead;
        });
    }

    /// What comes after the products, in PEFT's order.
    fn finish(&self, member: &Layer<'_>, lines: Range<usize>, columns: &Range<usize>, patch: Option<&Patch<'_>>) {
        let scale = patch.and_then(|patch| patch.scale);
        let bias = patch.and_then(|patch| patch.bias).or(member.bias);
        let rescale = patch.and_then(|patch| patch.rescale);
        if scale.is_none() && bias.is_none() && rescale.is_none() {
            return;
        }
        for line in lines {
            let y = member.y.at(line * member.outputs + columns.start);
            // SAFETY: each task has lines and columns of its own.
            let y = unsafe { std::slice::from_raw_parts_mut(y, columns.len()) };
            if let Some(scale) = scale {
                scale_row(y, scale.part(columns.clone()));
            }
            if let Some(bias) = bias {
                add_row(y, bias.part(columns.clone()));
            }
            if let Some(rescale) = rescale {
                scale_row(y, rescale.part(columns.clone()));
            }
        }
    }

    /// Until pieces and shrinks are done. They have lower numbers than expansions, so all are under way: this is short.
    fn wait(&self) {
        let mut turns = 0;
        while self.done.load(Ordering::Acquire) < self.pieces + self.shrinks.len() {
            turns += 1;
            // Whoever computes the last one may be off the processor.
            if turns % 64 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    fn note(&self, timer: Option<Instant>, part: impl Fn(&Clock) -> &AtomicU64) {
        if let (Some(clock), Some(timer)) = (&self.clock, timer) {
            part(clock).fetch_add(timer.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
    }
}

/// What threads spent their time on, nanoseconds of all of them together.
#[derive(Default)]
struct Clock {
    base: AtomicU64,
    adapters: AtomicU64,
}

impl Clock {
    fn share(self) -> f64 {
        let (base, adapters) = (self.base.into_inner() as f64, self.adapters.into_inner() as f64);
        adapters / (base + adapters).max(1.0)
    }
}

#[cfg(test)]
mod tests;
