//! Linear layers that read the same input, with the adapters of a step, in one go.
//!
//! One list of tasks: first all shrinks (`x·Aᵀ`), then pieces of the outputs. A piece is the base's product, and while
//! it is in the cache, what adapters and biases do to it. So threads are called once, and weights pass by once.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::Floats;
use super::expand::Expansion;
use super::floats::each_type;
use super::product::{Product, ROW_PANEL};
use super::tasks::{self, SERIAL, Shared, TASK_BYTES};
use super::vector::{add_row, scale_row};

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
    let mut group = Group {
        inputs,
        shrunk: Shared(scratch.as_mut_ptr()),
        shrinks: members.iter().enumerate().flat_map(|(i, member)| member.shrinks(i, inputs)).collect(),
        pieces: 0,
        members,
        shrinks_done: AtomicUsize::new(0),
        clock: measure.then(Clock::default),
    };
    for member in &mut group.members {
        member.first = group.pieces;
        group.pieces += member.outputs.div_ceil(member.piece);
    }
    let work: usize = group.members.iter().map(|member| member.lines * inputs * member.outputs).sum();
    tasks::run(group.shrinks.len() + group.pieces, work < SERIAL, |i| match group.shrinks.get(i) {
        Some(shrink) => group.shrink(shrink),
        None => group.piece(i - group.shrinks.len()),
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
    /// Its first piece among all members'.
    first: usize,
    low_rank: bool,
}

/// Rows of A over lines of a patch.
struct Shrink {
    member: usize,
    patch: usize,
    lines: Range<usize>,
    rows: Range<usize>,
}

struct Group<'a> {
    inputs: usize,
    members: Vec<Layer<'a>>,
    shrunk: Shared,
    shrinks: Vec<Shrink>,
    pieces: usize,
    shrinks_done: AtomicUsize,
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
            first: 0,
            low_rank: member.patches.iter().any(|patch| patch.low_rank.is_some()),
        }
    }

    fn shrinks(&self, member: usize, inputs: usize) -> impl Iterator<Item = Shrink> {
        self.patches.iter().enumerate().flat_map(move |(index, (patch, _))| {
            let rank = patch.low_rank.map_or(0, |low_rank| low_rank.rank);
            let bytes = patch.low_rank.map_or(1, |low_rank| inputs * low_rank.a.width());
            let step = (TASK_BYTES / bytes.max(1)).next_multiple_of(8);
            let lines = patch.lines.clone();
            lines.clone().step_by(ROW_PANEL).flat_map(move |from| {
                let lines = from..lines.end.min(from + ROW_PANEL);
                (0..rank).step_by(step).map(move |row| Shrink {
                    member,
                    patch: index,
                    lines: lines.clone(),
                    rows: row..rank.min(row + step),
                })
            })
        })
    }
}

impl Group<'_> {
    fn shrink(&self, task: &Shrink) {
        let timer = self.clock.as_ref().map(|_| Instant::now());
        let member = &self.members[task.member];
        let (patch, at) = member.patches[task.patch];
        if let Some(LowRank { a, rank, .. }) = patch.low_rank {
            let x = &member.x[task.lines.start * self.inputs..task.lines.end * self.inputs];
            let y = self.shrunk.at(at + (task.lines.start - patch.lines.start) * rank);
            let (rows, inputs) = (task.lines.len(), self.inputs);
            each_type!(a, |w| {
                let product = Product { x, w, y, rows, inputs, outputs: rank };
                // SAFETY: shapes were checked; each task has lines and columns of its own.
                unsafe { product.columns(task.rows.start, task.rows.end) };
            });
        }
        self.shrinks_done.fetch_add(1, Ordering::Release);
        self.note(timer, |clock| &clock.adapters);
    }

    /// Columns of one member: the base's product, then what is done to it.
    fn piece(&self, index: usize) {
        let timer = self.clock.as_ref().map(|_| Instant::now());
        let member = self.members.iter().rfind(|member| member.first <= index);
        let Some(member) = member else { return };
        let from = (index - member.first) * member.piece;
        let columns = from..member.outputs.min(from + member.piece);
        self.products(member, &columns);
        self.note(timer, |clock| &clock.base);

        let timer = self.clock.as_ref().map(|_| Instant::now());
        if member.low_rank {
            self.wait_for_shrinks();
        }
        let mut line = 0;
        for (patch, at) in &member.patches {
            self.finish(member, line..patch.lines.start, &columns, None);
            self.finish(member, patch.lines.clone(), &columns, Some((patch, *at)));
            line = patch.lines.end;
        }
        self.finish(member, line..member.lines, &columns, None);
        let adapted = !member.patches.is_empty();
        self.note(timer, |clock| if adapted { &clock.adapters } else { &clock.base });
    }

    /// `x·Wᵀ`: one product for every run of lines with the same weight.
    fn products(&self, member: &Layer<'_>, columns: &Range<usize>) {
        let mut start = 0;
        for (patch, _) in member.patches.iter().filter(|(patch, _)| patch.weight.is_some()) {
            self.product(member, member.weight, start..patch.lines.start, columns);
            self.product(member, patch.weight.unwrap_or(member.weight), patch.lines.clone(), columns);
            start = patch.lines.end;
        }
        self.product(member, member.weight, start..member.lines, columns);
    }

    fn product(&self, member: &Layer<'_>, weight: Floats<'_>, lines: Range<usize>, columns: &Range<usize>) {
        if lines.is_empty() {
            return;
        }
        let x = &member.x[lines.start * self.inputs..lines.end * self.inputs];
        let y = member.y.at(lines.start * member.outputs);
        let (rows, inputs, outputs) = (lines.len(), self.inputs, member.outputs);
        each_type!(weight, |w| {
            let product = Product { x, w, y, rows, inputs, outputs };
            // SAFETY: shapes were checked; each task has columns of its own.
            unsafe { product.columns(columns.start, columns.end) };
        });
    }

    /// What comes after the product, in PEFT's order.
    fn finish(
        &self,
        member: &Layer<'_>,
        lines: Range<usize>,
        columns: &Range<usize>,
        patch: Option<(&Patch<'_>, usize)>,
    ) {
        let outputs = member.outputs;
        let low_rank = patch.and_then(|(patch, at)| patch.low_rank.map(|low_rank| (low_rank, at)));
        if let Some((LowRank { b, rank, scale, .. }, at)) = low_rank.filter(|_| !lines.is_empty()) {
            // SAFETY: the place is the patch's own in scratch memory, and all tasks that wrote it are done.
            let shrunk = unsafe { std::slice::from_raw_parts(self.shrunk.at(at), lines.len() * rank) };
            let expansion = Expansion { shrunk, b, rank, outputs, scale };
            // SAFETY: shapes were checked; each task has columns of its own.
            unsafe { expansion.add_to(member.y.at(lines.start * outputs), columns.start, columns.end) };
        }
        let own = patch.map(|(patch, _)| patch);
        let scale = own.and_then(|patch| patch.scale);
        let bias = own.and_then(|patch| patch.bias).or(member.bias);
        let rescale = own.and_then(|patch| patch.rescale);
        if scale.is_none() && bias.is_none() && rescale.is_none() {
            return;
        }
        for line in lines {
            let y = member.y.at(line * outputs + columns.start);
            // SAFETY: each task has columns of its own.
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

    /// Shrinks have lower numbers than pieces: all are under way or done, and this is short.
    fn wait_for_shrinks(&self) {
        let mut turns = 0;
        while self.shrinks_done.load(Ordering::Acquire) < self.shrinks.len() {
            turns += 1;
            // Whoever computes a shrink may be off the processor.
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
