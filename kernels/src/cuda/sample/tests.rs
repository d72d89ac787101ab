use std::sync::Arc;

use super::*;
use crate::cuda::checks::{Rng, SeedableRng, StdRng, assert_same, gpu, pick, poisoned, seconds, uniform};
use crate::cuda::{Graph, choose, choose_scratch_len};

/// How far a share of the probability may be off.
const NEAR: f64 = 1e-5;

/// What a launch reads and writes.
struct Batch {
    logits: Slice,
    draws: Slice,
    scratch: Slice,
    tokens: Slice,
    logprobs: Slice,
    logsumexps: Slice,
    vocabulary: usize,
}

impl Batch {
    fn new(gpu: &Arc<Gpu>, logits: &[f32], draws: &[Draw]) -> Self {
        let rows = draws.len();
        let vocabulary = logits.len() / rows;
        Self {
            logits: Slice::of(gpu, Dtype::F32, logits).expect("memory"),
            draws: Slice::of_u32(gpu, &packed(draws)).expect("memory"),
            scratch: poisoned(gpu, Dtype::F32, sample_scratch_len(rows, vocabulary)),
            tokens: Slice::of_u32(gpu, &vec![u32::MAX; rows]).expect("memory"),
            logprobs: poisoned(gpu, Dtype::F32, rows),
            logsumexps: poisoned(gpu, Dtype::F32, rows),
            vocabulary,
        }
    }

    fn choice(&self) -> Choice<'_> {
        Choice { tokens: &self.tokens, logprobs: &self.logprobs, logsumexps: &self.logsumexps }
    }

    fn launch(&self, gpu: &Gpu) -> Result<(), GpuError> {
        sample(gpu, &self.logits, self.vocabulary, &self.draws, &self.choice(), &self.scratch)
    }

    fn found(&self) -> Drawn {
        Drawn {
            tokens: self.tokens.to_u32().expect("numbers"),
            logprobs: self.logprobs.to_f32().expect("numbers"),
            logsumexps: self.logsumexps.to_f32().expect("numbers"),
        }
    }
}

struct Drawn {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    logsumexps: Vec<f32>,
}

fn packed(draws: &[Draw]) -> Vec<u32> {
    let mut words = vec![0; draws.len() * Draw::WORDS];
    words.chunks_exact_mut(Draw::WORDS).zip(draws).for_each(|(words, draw)| draw.write(words));
    words
}

fn drawn(gpu: &Arc<Gpu>, logits: &[f32], draws: &[Draw]) -> Drawn {
    let batch = Batch::new(gpu, logits, draws);
    batch.launch(gpu).expect("a launch");
    batch.found()
}

/// What may be drawn from a row, in f64.
struct Reference {
    /// Ids, the highest score first, the lowest id first of equals.
    order: Vec<usize>,
    /// Of each id.
    weights: Vec<f64>,
    /// How many of the first are kept: at least, and at most.
    fewest: usize,
    most: usize,
}

impl Reference {
    fn of(logits: &[f32], draw: &Draw) -> Self {
        let scores: Vec<f32> = logits.iter().map(|logit| logit / draw.temperature + 0.0).collect();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let highest = f64::from(scores[order[0]]);
        let weights: Vec<f64> = scores.iter().map(|&score| (f64::from(score) - highest).exp()).collect();
        let mut top = order.len();
        if (1..top).contains(&draw.top_k) {
            let last = scores[order[draw.top_k - 1]];
            top = order.iter().take_while(|&&id| scores[id] >= last).count();
        }
        let total: f64 = order[..top].iter().map(|&id| weights[id]).sum();
        // How many are kept where the edges of top-p and min-p are moved, so that fewer are.
        let kept = |moved: f64| {
            let mut kept = top;
            if draw.top_p < 1.0 {
                let mut before = 0.0;
                let enough = order[..top].iter().position(|&id| {
                    let enough = before / total >= f64::from(draw.top_p) - moved;
                    before += weights[id];
                    enough
                });
                kept = enough.unwrap_or(top).max(1);
            }
            let light = |id: usize| weights[id] < f64::from(draw.min_p) * (1.0 + moved);
            order[..kept].iter().position(|&id| light(id)).unwrap_or(kept).max(1)
        };
        let (fewest, most) = (kept(NEAR), kept(-NEAR));
        Self { order, weights, fewest, most }
    }

    /// Whether the token is that of this uniform number, give or take a little, for one of the sets that may be kept.
    fn allows(&self, token: usize, uniform: f64) -> bool {
        let (mut total, mut before, mut inside) = (0.0, 0.0, false);
        self.order[..self.most].iter().enumerate().any(|(rank, &id)| {
            let weight = self.weights[id];
            total += weight;
            before += if id < token { weight } else { 0.0 };
            inside |= id == token;
            let through = before + self.weights[token];
            let hit = before / total - NEAR <= uniform && uniform <= through / total + NEAR;
            rank + 1 >= self.fewest && inside && hit
        })
    }

    /// A uniform number in the middle of what a token has, if so many are kept.
    fn aim(&self, token: usize, kept: usize) -> f64 {
        let kept = &self.order[..kept];
        let before: f64 = kept.iter().filter(|&&id| id < token).map(|&id| self.weights[id]).sum();
        let total: f64 = kept.iter().map(|&id| self.weights[id]).sum();
        ((before + self.weights[token] / 2.0) / total).min(1.0 - f64::EPSILON)
    }
}

/// Logits of a row: even, humped, with many equals, some banned, all equal, or a few far above.
fn logits_of(rng: &mut StdRng, vocabulary: usize) -> Vec<f32> {
    let size = pick(rng, &[1e-3f32, 0.1, 1.0, 5.0, 20.0]);
    let kind = rng.random_range(0..6);
    let mut logits: Vec<f32> = (0..vocabulary)
        .map(|_| {
            let hump = (0..4).map(|_| rng.random_range(-size..size)).sum::<f32>();
            match kind {
                0 => rng.random_range(-size..size),
                1 => hump,
                2 => (hump * 2.0).round() / 2.0,
                3 if rng.random_bool(0.3) => f32::NEG_INFINITY,
                4 => 1.25,
                5 if rng.random_bool(0.001) => hump + 10.0,
                _ => hump,
            }
        })
        .collect();
    let any = rng.random_range(0..vocabulary);
    logits[any] = logits[any].max(-size);
    logits
}

fn draw_of(rng: &mut StdRng) -> Draw {
    let any = rng.random_range(0.0..1.0);
    Draw {
        temperature: pick(rng, &[0.0, 0.1, 0.7, 1.0, 1.0, 2.0]),
        top_k: pick(rng, &[0, 0, 1, 2, 50, 1000, usize::MAX]),
        top_p: pick(rng, &[1.0, 1.0, 0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 0.9999]),
        min_p: pick(rng, &[0.0, 0.0, 0.05, 0.3, 1.0]),
        uniform: pick(rng, &[0.0, 1.0 - f64::EPSILON, any, any]),
    }
}

fn check(logits: &[f32], draws: &[Draw], found: &Drawn) {
    let rows = draws.len();
    let vocabulary = logits.len() / rows;
    for (row, (logits, draw)) in logits.chunks_exact(vocabulary).zip(draws).enumerate() {
        let token = found.tokens[row] as usize;
        let what = format!("row {row} of {rows} of {vocabulary}, {draw:?}: token {token}");
        assert!(token < vocabulary, "{what}");
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(highest)).exp()).sum();
        let log = f64::from(highest) + sum.ln();
        let logprob = f64::from(logits[token]) - log;
        for (found, exact) in [(found.logprobs[row], logprob), (found.logsumexps[row], log)] {
            assert!((f64::from(found) - exact).abs() < 1e-5 * (1.0 + exact.abs()), "{what}: {found}, not {exact}");
        }
        if draw.temperature == 0.0 {
            assert_eq!(Some(token), logits.iter().position(|&logit| logit == highest), "{what}");
            continue;
        }
        let reference = Reference::of(logits, draw);
        assert!(reference.allows(token, draw.uniform), "{what}, of {} to {}", reference.fewest, reference.most);
    }
}

#[test]
fn a_draw_is_packed_with_what_top_p_drops() {
    let mut words = [0; Draw::WORDS];
    Draw { temperature: 0.5, top_k: usize::MAX, top_p: 0.9, min_p: 3.0, uniform: 0.75 }.write(&mut words);
    assert_eq!(words, [0.5f32.to_bits(), u32::MAX, 0.1f32.to_bits(), 1.0f32.to_bits(), 3 << 30]);
    Draw { uniform: 1.0 - f64::EPSILON, min_p: f32::NAN, top_p: f32::NAN, ..Draw::GREEDY }.write(&mut words);
    assert_eq!(words, [0, 0, 0, 0, u32::MAX]);
}

#[test]
#[ignore = "needs a GPU"]
fn draws_are_right() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..150 {
        let vocabulary = pick(&mut rng, &[1, 2, 31, 255, 3000, 8191, 8192, 8193, 49152, 128_256, 262_144]);
        let rows = if vocabulary > 10_000 { rng.random_range(1..4) } else { rng.random_range(1..40) };
        let logits: Vec<f32> = (0..rows).flat_map(|_| logits_of(&mut rng, vocabulary)).collect();
        let mut draws: Vec<Draw> = (0..rows).map(|_| draw_of(&mut rng)).collect();
        check(&logits, &draws, &drawn(&gpu, &logits, &draws));
        // Again with numbers that fall on the last token that is kept.
        for (logits, draw) in logits.chunks_exact(vocabulary).zip(&mut draws) {
            if draw.temperature > 0.0 {
                let reference = Reference::of(logits, draw);
                let last = reference.order[reference.fewest - 1];
                draw.uniform = reference.aim(last, reference.fewest);
            }
        }
        check(&logits, &draws, &drawn(&gpu, &logits, &draws));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn many_draws_hit_ids_in_the_right_proportions() {
    const EDGES: [(usize, f32, f32); 5] =
        [(0, 1.0, 0.0), (20, 1.0, 0.0), (0, 0.7, 0.0), (0, 1.0, 0.2), (20, 0.8, 0.15)];
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(2);
    let (vocabulary, rows) = (50, 4000);
    let spread: Vec<f32> = uniform(&mut rng, vocabulary).iter().map(|x| x * 2.0).collect();
    // Nearly equal, but for one far below: many are in the same bucket.
    let mut close: Vec<f32> = uniform(&mut rng, vocabulary).iter().map(|x| x / 40.0).collect();
    close[7] = -30.0;
    for (row, (top_k, top_p, min_p)) in [spread, close].iter().flat_map(|row| EDGES.map(|edges| (row, edges))) {
        let draw = Draw { temperature: 0.8, top_k, top_p, min_p, uniform: 0.0 };
        let at = |row: usize| Draw { uniform: (row as f64 + 0.5) / rows as f64, ..draw };
        let found = drawn(&gpu, &row.repeat(rows), &(0..rows).map(at).collect::<Vec<_>>());
        let mut counts = vec![0usize; vocabulary];
        found.tokens.iter().for_each(|&token| counts[token as usize] += 1);
        let reference = Reference::of(row, &draw);
        assert_eq!(reference.fewest, reference.most, "no token is near an edge");
        let kept = &reference.order[..reference.fewest];
        let total: f64 = kept.iter().map(|&id| reference.weights[id]).sum();
        for (id, &count) in counts.iter().enumerate() {
            let share = if kept.contains(&id) { reference.weights[id] / total } else { 0.0 };
            // Numbers are evenly spaced: each end of a token's takes one more or less.
            let expected = share * rows as f64;
            assert!((count as f64 - expected).abs() <= 2.0, "{draw:?}: {count} of {id}, not {expected}");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rows_that_take_the_highest_get_what_choose_gives() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(3);
    for vocabulary in [1, 100, 8193, 49152, 128_256, 262_144] {
        let rows = 6;
        let logits: Vec<f32> = (0..rows).flat_map(|_| logits_of(&mut rng, vocabulary)).collect();
        let others = Draw { temperature: 1.0, top_k: 10, top_p: 0.9, ..Draw::GREEDY };
        let draws: Vec<Draw> = (0..rows).map(|row| if row % 2 == 0 { Draw::GREEDY } else { others }).collect();
        let batch = Batch::new(&gpu, &logits, &draws);
        batch.launch(&gpu).expect("a launch");
        let found = batch.found();
        let scratch = poisoned(&gpu, Dtype::F32, choose_scratch_len(rows, vocabulary));
        choose(&gpu, &batch.logits, vocabulary, &batch.choice(), &scratch).expect("a launch");
        let chosen = batch.found();
        for row in (0..rows).step_by(2) {
            let what = format!("row {row} of {vocabulary}");
            assert_eq!(found.tokens[row], chosen.tokens[row], "{what}");
            assert_same(&found.logprobs[row..=row], &chosen.logprobs[row..=row], &what);
            assert_same(&found.logsumexps[row..=row], &chosen.logsumexps[row..=row], &what);
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn rows_do_not_depend_on_others_and_a_graph_reads_new_draws() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(4);
    let (rows, vocabulary) = (24, 20_000);
    let logits: Vec<f32> = (0..rows).flat_map(|_| logits_of(&mut rng, vocabulary)).collect();
    let batch = Batch::new(&gpu, &logits, &vec![Draw::GREEDY; rows]);
    batch.launch(&gpu).expect("a launch");
    let graph = Graph::capture(&gpu, || batch.launch(&gpu)).expect("a graph");
    for _ in 0..5 {
        let draws: Vec<Draw> = (0..rows).map(|_| draw_of(&mut rng)).collect();
        let bytes: Vec<u8> = packed(&draws).iter().flat_map(|word| word.to_le_bytes()).collect();
        batch.draws.write(&bytes).expect("a copy");
        graph.launch().expect("a launch");
        let found = batch.found();
        check(&logits, &draws, &found);
        for row in [0, 7, rows - 1] {
            let one = drawn(&gpu, &logits[row * vocabulary..(row + 1) * vocabulary], &draws[row..=row]);
            assert_eq!(one.tokens[0], found.tokens[row], "row {row}");
            assert_same(&one.logprobs, &found.logprobs[row..=row], "logprobs");
            assert_same(&one.logsumexps, &found.logsumexps[row..=row], "logsumexps");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn equals_at_an_edge_stay_or_go_as_on_the_processor() {
    let gpu = gpu();
    for vocabulary in [1000, 49152] {
        let draw = |top_k, top_p, uniform| Draw { temperature: 1.0, top_k, top_p, min_p: 0.0, uniform };
        // All are equal: top-k keeps all of them, top-p the lowest quarter.
        let draws = [draw(3, 1.0, 0.9999), draw(0, 0.25, 0.0), draw(0, 0.25, 0.9999), draw(3, 0.25, 0.9999)];
        let found = drawn(&gpu, &vec![1.0; draws.len() * vocabulary], &draws);
        let last = |count: usize| (count as f64 * 0.9999) as u32;
        let quarter = last(vocabulary / 4);
        assert_eq!(found.tokens, [last(vocabulary), 0, quarter, quarter]);
    }
    // Both zeros are one score, and stay together.
    let logits = [-0.0, 0.0, -5.0, -0.0].repeat(4);
    let draws = [0.1, 0.4, 0.6, 0.9].map(|uniform| Draw { temperature: 1.0, top_k: 1, uniform, ..Draw::GREEDY });
    assert_eq!(drawn(&gpu, &logits, &draws).tokens, [0, 1, 1, 3]);
}

#[test]
#[ignore = "needs a GPU"]
fn what_is_banned_is_never_drawn() {
    let gpu = gpu();
    let vocabulary = 20_000;
    let mut row = vec![f32::NEG_INFINITY; vocabulary];
    row[300] = 1.0;
    row[19_999] = 1.0;
    let uniforms = [0.0, 0.25, 0.499, 0.5, 0.75, 1.0 - f64::EPSILON];
    for (top_k, top_p) in [(0, 1.0), (50, 1.0), (0, 0.999), (50, 0.999)] {
        let draws = uniforms.map(|uniform| Draw { temperature: 0.7, top_k, top_p, min_p: 0.0, uniform });
        let found = drawn(&gpu, &row.repeat(draws.len()), &draws);
        assert_eq!(found.tokens, [300, 300, 300, 19_999, 19_999, 19_999], "{top_k} {top_p}");
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_row_of_no_numbers_has_no_probability() {
    let gpu = gpu();
    let vocabulary = 9000;
    let drawing = Draw { temperature: 1.0, top_k: 5, top_p: 0.9, min_p: 0.0, uniform: 0.3 };
    for draw in [Draw::GREEDY, drawing, Draw { top_k: 0, top_p: 1.0, ..drawing }] {
        let mut rows = vec![vec![0.5f32; vocabulary]; 6];
        rows[0][0] = f32::NAN;
        rows[1][8999] = f32::NAN;
        rows[2][5] = f32::INFINITY;
        rows[3].fill(f32::NEG_INFINITY);
        rows[4].fill(f32::NAN);
        let found = drawn(&gpu, &rows.concat(), &[draw; 6]);
        assert!(found.logprobs[..5].iter().all(|logprob| logprob.is_nan()), "{draw:?}: {:?}", found.logprobs);
        assert!((found.logprobs[5] + (vocabulary as f32).ln()).abs() < 1e-4, "{draw:?}: {}", found.logprobs[5]);
        assert!(found.tokens.iter().all(|&token| (token as usize) < vocabulary));
    }
    // Scores that overflow.
    let found = drawn(&gpu, &[1.0, 2.0], &[Draw { temperature: 1e-45, ..drawing }]);
    assert!(found.logprobs[0].is_nan());
}

#[test]
#[ignore = "needs a GPU; prints timings"]
fn sample_bandwidth() {
    let gpu = gpu();
    let mut rng = StdRng::seed_from_u64(5);
    let plain = Draw { temperature: 0.8, uniform: 0.5, ..Draw::GREEDY };
    let (top_k, top_p) = (Draw { top_k: 50, ..plain }, Draw { top_p: 0.9, ..plain });
    let draws = [Draw::GREEDY, plain, top_k, top_p, Draw { top_k: 50, top_p: 0.9, min_p: 0.05, ..plain }];
    println!(
        "{:>6} {:>4} {:>8} {:>8} {:>8} {:>8} {:>8} us",
        "words", "rows", "greedy", "plain", "top-k", "top-p", "all"
    );
    for vocabulary in [49152, 128_256] {
        for rows in [1, 32, 64] {
            // A hump, and a few words that stand out, as a model has them.
            let logits: Vec<f32> = (0..rows * vocabulary)
                .map(|_| {
                    let hump = (0..4).map(|_| rng.random_range(-2.0f32..2.0)).sum::<f32>();
                    if rng.random_bool(0.0005) { hump + 9.0 } else { hump }
                })
                .collect();
            let batch = Batch::new(&gpu, &logits, &vec![Draw::GREEDY; rows]);
            let times = draws.map(|draw| {
                let bytes: Vec<u8> = packed(&vec![draw; rows]).iter().flat_map(|word| word.to_le_bytes()).collect();
                batch.draws.write(&bytes).expect("a copy");
                format!("{:>8.1}", seconds(&gpu, 100, |_| batch.launch(&gpu)) * 1e6)
            });
            println!("{vocabulary:>6} {rows:>4} {}", times.join(" "));
        }
    }
}
