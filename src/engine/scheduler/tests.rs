mod simulation;

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use simulation::{Ask, Simulation};

fn demand(prompt: usize, answer: usize, width: usize) -> Demand {
    Demand { prefix: 0, prompt, answer, width, cached: true, priority: 0 }
}

fn scheduler(tokens: usize, running: usize, blocks: usize) -> Scheduler {
    Scheduler::new(Budget { tokens, running }, blocks)
}

/// Enqueues a prompt that has nothing in common with others.
fn enqueue(s: &mut Scheduler, id: u64, demand: Demand) {
    let prompt = (0..demand.prompt as u32).map(|token| id as u32 * 1000 + token).collect();
    s.enqueue(UnitId(id), demand, None, prompt);
}

fn shape(plan: &Plan) -> Vec<(u64, usize, usize)> {
    plan.rows.iter().map(|row| (row.unit.0, row.start, row.tokens.len())).collect()
}

#[test]
fn a_long_prompt_is_cut_to_the_budget_and_decoding_goes_on_beside_it() {
    let mut s = scheduler(64, 4, 100);
    enqueue(&mut s, 1, demand(2, 10, 1));
    enqueue(&mut s, 2, demand(100, 10, 1));
    let plan = s.plan(20, |_| true);
    assert_eq!(shape(&plan), [(1, 0, 2), (2, 0, 18)]);
    assert_eq!((plan.rows[0].last, plan.rows[1].last, plan.decoding, plan.prompt_tokens), (true, false, 0, 20));
    s.grow(UnitId(1), &[(0, 7)]);
    let plan = s.plan(20, |_| true);
    assert_eq!(shape(&plan), [(1, 2, 1), (2, 18, 20)]);
    assert_eq!((&plan.rows[0].tokens[..], plan.decoding, plan.prompt_tokens), (&[7][..], 1, 20));
}

#[test]
fn a_higher_priority_is_admitted_first_and_equal_ones_in_order() {
    let mut s = scheduler(64, 1, 100);
    for (id, priority) in [(1, 0), (2, 0), (3, 5)] {
        enqueue(&mut s, id, Demand { priority, ..demand(1, 1, 1) });
    }
    let mut order = vec![];
    while s.waiting() > 0 {
        let unit = s.plan(64, |_| true).rows[0].unit;
        order.push(unit.0);
        s.end(unit);
    }
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn who_is_not_ready_takes_nobodys_place() {
    let mut s = scheduler(64, 2, 100);
    (1..=4).for_each(|id| enqueue(&mut s, id, demand(3, 5, 2)));
    (5..=7).for_each(|id| enqueue(&mut s, id, demand(3, 5, 1)));
    assert_eq!(shape(&s.plan(64, |id| id.0 > 4)), [(5, 0, 3), (6, 0, 3)]);
    s.end(UnitId(5));
    s.end(UnitId(6));
    // The first that is, in their order.
    assert_eq!(shape(&s.plan(64, |id| id.0 != 1)), [(2, 0, 3)]);
}

#[test]
fn branches_share_the_prompt_and_copy_a_block_only_when_they_write_it() {
    let mut s = scheduler(64, 8, 100);
    enqueue(&mut s, 1, demand(20, 30, 3));
    s.plan(64, |_| true);
    s.grow(UnitId(1), &[(0, 1), (0, 2), (0, 3)]);
    let plan = s.plan(64, |_| true);
    // The first block is full and stays shared; of the second, two branches get copies and the last keeps it.
    assert_eq!(plan.copies.len(), 2);
    let firsts: HashSet<_> = plan.rows.iter().map(|row| row.blocks[0]).collect();
    let seconds: HashSet<_> = plan.rows.iter().map(|row| row.blocks[1]).collect();
    assert_eq!((firsts.len(), seconds.len()), (1, 3));
}

#[test]
fn an_encoder_row_longer_than_the_budget_runs_alone() {
    let mut s = scheduler(10, 4, 0);
    let encoder = |prompt| Demand { cached: false, answer: 0, ..demand(prompt, 0, 1) };
    enqueue(&mut s, 1, encoder(30));
    enqueue(&mut s, 2, encoder(3));
    assert_eq!(shape(&s.plan(64, |_| true)), [(1, 0, 30)]);
    s.end(UnitId(1));
    assert_eq!(shape(&s.plan(64, |_| true)), [(2, 0, 3)]);
}

#[test]
fn a_prompt_is_computed_once_by_those_who_have_it_at_the_same_time_and_later() {
    let mut s = scheduler(1000, 8, 100);
    let shared: Vec<u32> = (0..70).collect();
    for id in 1..=3 {
        s.enqueue(UnitId(id), demand(70, 5, 1), None, shared.clone());
    }
    // In the same step: the first computes the prompt, the others only what follows its full blocks.
    assert_eq!(shape(&s.plan(1000, |_| true)), [(1, 0, 70), (2, 64, 6), (3, 64, 6)]);
    assert_eq!([1, 2, 3].map(|id| s.found(UnitId(id))), [0, 64, 64]);
    (1..=3).for_each(|id| s.end(UnitId(id)));
    assert_eq!((s.pool().available(), s.pool().cached()), (100, 4));
    s.enqueue(UnitId(4), demand(70, 5, 1), None, shared.clone());
    s.enqueue(UnitId(5), demand(70, 5, 1), Some(Digest::of(b"an adapter")), shared);
    assert_eq!(shape(&s.plan(1000, |_| true)), [(4, 64, 6), (5, 0, 70)]);
}

#[test]
fn a_key_value_prefix_is_written_once() {
    let mut s = scheduler(1000, 8, 100);
    let adapter = Some(Digest::of(b"prefix"));
    let asked = Demand { prefix: 20, ..demand(30, 5, 1) };
    s.enqueue(UnitId(1), asked, adapter, (0..30).collect());
    let plan = s.plan(1000, |_| true);
    assert_eq!((plan.rows[0].prefix_from, plan.rows[0].start, plan.rows[0].tokens.len()), (Some(0), 20, 30));
    s.end(UnitId(1));
    // Its full blocks are found; the rest of it shares a block with the prompt.
    s.enqueue(UnitId(2), asked, adapter, (100..130).collect());
    let plan = s.plan(1000, |_| true);
    assert_eq!((plan.rows[0].prefix_from, plan.rows[0].start, plan.rows[0].tokens.len()), (Some(16), 20, 30));
}

#[test]
fn when_blocks_run_out_the_youngest_starts_again_and_finds_what_is_still_there() {
    let mut s = scheduler(1000, 8, 5);
    enqueue(&mut s, 1, demand(30, 40, 1));
    enqueue(&mut s, 2, demand(30, 40, 1));
    s.plan(1000, |_| true);
    let mut answered = 0;
    while s.preemptions() == 0 {
        answered += 1;
        assert!(answered < 40, "five blocks are not enough for both");
        (1..=2).for_each(|id| s.grow(UnitId(id), &[(0, answered)]));
        s.plan(1000, |_| true);
    }
    assert_eq!((s.waiting(), s.running()), (1, 1));
    s.end(UnitId(1));
    let plan = s.plan(1000, |_| true);
    let row = &plan.rows[0];
    // All it knows is computed again, but for what the cache still has, and the answer goes on from there.
    assert_eq!((row.unit, row.start, row.start + row.tokens.len()), (UnitId(2), 32, 30 + answered as usize));
    assert!(row.last);
}

#[test]
fn a_failed_step_takes_its_own_requests_along_and_leaves_nothing_wrong_behind() {
    let mut s = scheduler(1000, 1, 100);
    s.enqueue(UnitId(1), demand(40, 5, 1), None, (0..40).collect());
    s.enqueue(UnitId(2), demand(40, 5, 1), None, (0..40).collect());
    let plan = s.plan(1000, |_| true);
    assert_eq!(shape(&plan), [(1, 0, 40)]);
    s.fail(&plan);
    assert_eq!((s.pool().cached(), s.pool().available()), (0, 100));
    assert_eq!(shape(&s.plan(1000, |_| true)), [(2, 0, 40)]);
}

/// One adapter always has twenty requests waiting; another comes with a single one.
#[test]
fn a_greedy_adapter_does_not_keep_another_from_its_turn() {
    let mut s = scheduler(64, 4, 1000);
    let (greedy, modest) = (Some(Digest::of(b"greedy")), Some(Digest::of(b"modest")));
    let mut next = 0;
    let mut ask = |s: &mut Scheduler, adapter| {
        next += 1;
        let prompt = (0..40).map(|token| next as u32 * 100 + token).collect();
        s.enqueue(UnitId(next), demand(40, 20, 1), adapter, prompt);
        UnitId(next)
    };
    for _ in 0..20 {
        ask(&mut s, greedy);
    }
    let mut answered = std::collections::HashMap::<UnitId, usize>::new();
    let mut waits = None;
    for step in 0..400 {
        if step == 100 {
            waits = Some(ask(&mut s, modest));
        }
        for row in s.plan(64, |_| true).rows.into_iter().filter(|row| row.last) {
            let count = answered.entry(row.unit).or_default();
            *count += 1;
            if *count < 20 {
                s.grow(row.unit, &[(0, step)]);
                continue;
            }
            s.end(row.unit);
            if Some(row.unit) == waits {
                // Its own 20 tokens, and at most as long again until somebody makes room.
                assert!(step < 100 + 45, "it took until step {step}");
                return;
            }
            ask(&mut s, greedy);
        }
    }
    panic!("it starved");
}

/// What a request may look like.
fn asks() -> impl Strategy<Value = Ask> {
    (1usize..80, 1usize..30, 1usize..4, -1i32..2, 0u8..3, 0usize..60, 0u32..3).prop_map(
        |(prompt, answer, width, priority, adapter, arrives, topic)| Ask {
            // An adapter has one prefix, or none.
            demand: Demand { prefix: if adapter == 2 { 21 } else { 0 }, prompt, answer, width, cached: true, priority },
            adapter,
            arrives,
            topic,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Thousands of traces: arrivals at any time, forks, ends, clients that leave, steps that fail, steps begun before the last is over, pools that are too small.
    #[test]
    fn everybody_finishes_within_budget_reads_its_own_tokens_and_no_block_is_lost(
        tokens in 4usize..64,
        blocks in 1usize..40,
        asks in prop::collection::vec(asks(), 1..16),
        choices in prop::collection::vec(any::<u8>(), 1..64),
        ahead in any::<bool>(),
    ) {
        Simulation::new(Budget { tokens, running: 4.min(tokens) }, blocks, asks, choices, ahead).run();
    }

    #[test]
    fn encoders_finish_too(
        tokens in 4usize..64,
        lengths in prop::collection::vec((1usize..100, -1i32..2, 0u8..3), 1..30),
    ) {
        let mut s = Scheduler::new(Budget { tokens, running: 4 }, 0);
        for (i, &(prompt, priority, adapter)) in lengths.iter().enumerate() {
            let prefix = adapter as usize * 5;
            let demand = Demand { prefix, prompt, answer: 0, width: 1, cached: false, priority };
            s.enqueue(UnitId(i as u64), demand, Some(Digest::of(&[adapter])), vec![1; prompt]);
        }
        let mut done = 0;
        while done < lengths.len() {
            let plan = s.plan(tokens, |_| true);
            prop_assert!(!plan.rows.is_empty());
            prop_assert!(plan.rows.len() == 1 || plan.prompt_tokens <= tokens);
            for row in plan.rows {
                let (prompt, _, adapter) = lengths[row.unit.0 as usize];
                prop_assert!(row.last && row.tokens.len() == prompt && row.start == adapter as usize * 5);
                s.end(row.unit);
                done += 1;
            }
        }
    }
}
