use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn demand(prompt: usize, answer: usize, width: usize) -> Demand {
    Demand { prefix: 0, prompt, answer, width, cached: true, priority: 0 }
}

fn scheduler(tokens: usize, running: usize, blocks: usize) -> Scheduler {
    Scheduler::new(Budget { tokens, running }, blocks)
}

#[test]
fn a_long_prompt_is_cut_to_the_budget_and_decoding_goes_on_beside_it() {
    let mut s = scheduler(8, 4, 100);
    s.enqueue(UnitId(1), demand(2, 10, 1));
    s.enqueue(UnitId(2), demand(20, 10, 1));
    let plan = s.plan();
    assert_eq!(
        plan.rows.iter().map(|row| (row.unit.0, row.tokens, row.last)).collect::<Vec<_>>(),
        [(1, 2, true), (2, 6, false)]
    );
    s.continue_with(UnitId(1), &[0]);
    let plan = s.plan();
    assert_eq!(
        plan.rows.iter().map(|row| (row.unit.0, row.start, row.tokens)).collect::<Vec<_>>(),
        [(1, 2, 1), (2, 6, 7)]
    );
}

#[test]
fn a_higher_priority_is_admitted_first_and_equal_ones_in_order() {
    let mut s = scheduler(64, 1, 100);
    for (id, priority) in [(1, 0), (2, 0), (3, 5)] {
        s.enqueue(UnitId(id), Demand { priority, ..demand(1, 1, 1) });
    }
    let mut order = vec![];
    while s.waiting() > 0 {
        let unit = s.plan().rows[0].unit;
        order.push(unit.0);
        s.end(unit);
    }
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn branches_share_the_prompt_and_copy_a_block_only_when_they_write_it() {
    let mut s = scheduler(64, 8, 100);
    s.enqueue(UnitId(1), demand(20, 30, 3));
    s.plan();
    s.continue_with(UnitId(1), &[0, 0, 0]);
    let plan = s.plan();
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
    s.enqueue(UnitId(1), encoder(30));
    s.enqueue(UnitId(2), encoder(3));
    let plan = s.plan();
    assert_eq!(plan.rows.iter().map(|row| (row.unit.0, row.tokens)).collect::<Vec<_>>(), [(1, 30)]);
    s.end(UnitId(1));
    assert_eq!(s.plan().rows[0].unit.0, 2);
}

/// Runs random units to their ends and checks what must hold in every step.
fn simulate(budget: Budget, blocks: usize, demands: Vec<Demand>, choices: Vec<u8>) {
    let mut s = Scheduler::new(budget, blocks);
    let mut choices = choices.into_iter().cycle();
    let mut left: BTreeMap<UnitId, (Demand, usize)> = BTreeMap::new();
    for (i, demand) in demands.into_iter().enumerate() {
        if demand.blocks() <= blocks && demand.width <= budget.running {
            s.enqueue(UnitId(i as u64), demand);
            left.insert(UnitId(i as u64), (demand, demand.answer));
        }
    }
    let mut steps = 0;
    while !left.is_empty() {
        steps += 1;
        assert!(steps < 10_000, "somebody starves");
        let plan = s.plan();
        assert!(!plan.rows.is_empty(), "nobody runs");
        let tokens: usize = plan.rows.iter().map(|row| row.tokens).sum();
        assert!(tokens <= budget.tokens, "{tokens} tokens in a step of {}", budget.tokens);
        let mut writers: HashMap<BlockId, UnitId> = HashMap::new();
        let mut by_unit: BTreeMap<UnitId, (usize, bool)> = BTreeMap::new();
        for row in &plan.rows {
            assert_eq!(row.blocks.len(), (row.start + row.tokens).div_ceil(BLOCK_TOKENS));
            for block in &row.blocks[row.start / BLOCK_TOKENS..] {
                assert!(writers.insert(*block, row.unit).is_none(), "two rows write {block:?}");
            }
            let entry = by_unit.entry(row.unit).or_default();
            *entry = (entry.0 + 1, row.last);
        }
        for (unit, (branches, last)) in by_unit {
            let (demand, answer) = left.get_mut(&unit).expect("only live units run");
            if !last {
                continue;
            }
            *answer = answer.saturating_sub(1);
            let choice = choices.next().unwrap_or(0) as usize;
            if *answer == 0 || choice == 255 {
                left.remove(&unit);
                s.end(unit);
            } else {
                let width = 1 + choice % demand.width;
                s.continue_with(unit, &(0..width).map(|i| (choice + i) % branches).collect::<Vec<_>>());
            }
        }
    }
    assert_eq!(s.pool().free(), blocks, "blocks are conserved");
    assert!(s.pool.promise(blocks), "promises are taken back");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn everybody_finishes_within_budget_and_no_block_is_lost(
        tokens in 4usize..64,
        blocks in 1usize..40,
        demands in prop::collection::vec((0usize..20, 1usize..80, 1usize..30, 1usize..4, -2i32..3), 1..20),
        choices in prop::collection::vec(any::<u8>(), 1..64),
    ) {
        let demands = demands.into_iter().map(|(prefix, prompt, answer, width, priority)| {
            Demand { prefix, prompt, answer, width, cached: true, priority }
        });
        simulate(Budget { tokens, running: 4.min(tokens) }, blocks, demands.collect(), choices);
    }
}
