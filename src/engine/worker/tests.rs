mod remembering;
mod trace;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::scheduler::Budget;
use super::super::{EngineError, Event, Parameters};
use remembering::{Ability, EOS, Faults, LETTERS};
use trace::{Ask, Heard, Setting, run, tokens};

/// What a client may ask for.
fn parameters(rng: &mut StdRng) -> Parameters {
    let mut parameters = Parameters {
        max_new_tokens: if rng.random_bool(0.15) { 1 } else { rng.random_range(1..40) },
        eos: vec![EOS],
        ignore_eos: rng.random_bool(0.3),
        seed: Some(rng.random()),
        ..Parameters::default()
    };
    if rng.random_bool(0.4) {
        parameters.do_sample = true;
        parameters.temperature = rng.random_range(0.2..2.0);
        parameters.top_k = rng.random_range(0..5);
        parameters.top_p = if rng.random() { 1.0 } else { 0.8 };
        parameters.min_p = if rng.random() { 0.0 } else { 0.1 };
    }
    if rng.random_bool(0.4) {
        let letter = |rng: &mut StdRng| char::from(LETTERS[rng.random_range(0..LETTERS.len())]);
        parameters.stop = (0..rng.random_range(1..3)).map(|_| (0..2).map(|_| letter(rng)).collect()).collect();
    }
    parameters
}

/// Makes of some requests ones that the host chooses for, or that have several sequences.
fn strange(parameters: &mut Parameters, rng: &mut StdRng) {
    match rng.random_range(0..5) {
        0 => parameters.no_repeat_ngram_size = 2,
        1 => parameters.repetition_penalty = 1.3,
        2 => parameters.logprobs = 2,
        3 => parameters.num_return_sequences = rng.random_range(2..4),
        _ => {
            *parameters = Parameters { num_beams: 2, do_sample: false, temperature: 1.0, ..parameters.clone() };
        }
    }
}

/// Requests that begin alike now and then, and some that take up what an earlier one may have been answered.
fn asks(rng: &mut StdRng, strangers: f64) -> Vec<Ask> {
    let count = rng.random_range(1..12);
    let mut comes = 0;
    let mut prompts: Vec<Vec<u32>> = vec![];
    let mut asks = vec![];
    for _ in 0..count {
        let letters = |rng: &mut StdRng, count: usize| -> Vec<u32> {
            (0..count).map(|_| u32::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
        };
        let mut prompt = match prompts.len() {
            0 => vec![],
            earlier if rng.random_bool(0.5) => prompts[rng.random_range(0..earlier)].clone(),
            _ => vec![],
        };
        let more = rng.random_range(1..40);
        prompt.extend(letters(rng, more));
        prompt.truncate(100);
        prompts.push(prompt.clone());
        let mut parameters = parameters(rng);
        if rng.random_bool(strangers) {
            strange(&mut parameters, rng);
        }
        comes += if rng.random_bool(0.5) { 0 } else { rng.random_range(0..15) };
        let adapter = if rng.random_bool(0.5) { 0 } else { rng.random_range(1..4) };
        let priority = rng.random_range(-1..2);
        let scores = rng.random_bool(0.15);
        asks.push(Ask { prompt, parameters, scores, adapter, priority, comes, ..of_the_base() });
    }
    asks
}

/// Asks the base for twenty tokens, at once.
fn of_the_base() -> Ask {
    Ask {
        prompt: vec![u32::from(LETTERS[0]); 10],
        parameters: Parameters { max_new_tokens: 20, ignore_eos: true, ..Parameters::default() },
        scores: false,
        adapter: 0,
        priority: 0,
        comes: 0,
        leaves: None,
        gone: None,
        timeout: None,
    }
}

fn setting(rng: &mut StdRng) -> Setting {
    let running = rng.random_range(3..10);
    let budget = Budget { tokens: rng.random_range(running..80), running };
    let blocks = if rng.random() { 500 } else { rng.random_range(8..16) };
    Setting { ability: Ability::Serial, faults: Faults::default(), budget, blocks, room: rng.random_range(1..4) }
}

/// What is heard, but for what the cache held: that depends on who was there when.
fn said(events: &[Event]) -> Vec<String> {
    let each = events.iter().map(|event| match event {
        Event::Done(usage) => format!("done: {} + {}", usage.prompt_tokens, usage.completion_tokens),
        event => format!("{event:?}"),
    });
    each.collect()
}

fn ahead(asks: &[Ask], setting: Setting) -> Heard {
    run(asks, Setting { ability: Ability::Ahead, ..setting })
}

#[test]
fn steps_that_begin_before_the_last_is_over_say_the_same() {
    let (mut steps, mut answered) = (0, 0);
    for seed in 0..600 {
        let mut rng = StdRng::seed_from_u64(seed);
        let strangers = if seed % 3 == 0 { 0.3 } else { 0.0 };
        let (asks, setting) = (asks(&mut rng, strangers), setting(&mut rng));
        let (serial, ahead) = (run(&asks, setting), ahead(&asks, setting));
        for (number, (one, other)) in serial.events.iter().zip(&ahead.events).enumerate() {
            assert_eq!(said(one), said(other), "seed {seed}, request {number}: {:?}", asks[number]);
            answered += usize::from(matches!(one.last(), Some(Event::Done(_))));
        }
        assert_eq!(serial.ahead, 0);
        steps += ahead.ahead;
    }
    assert!(steps > 10_000 && answered > 2000, "{steps} steps ahead, {answered} answers: this tests little");
}

#[test]
fn whoever_gives_its_blocks_to_others_goes_on_as_if_nothing_had_been() {
    let (mut steps, mut preemptions) = (0, 0);
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut asks, mut setting) = (asks(&mut rng, 0.1), setting(&mut rng));
        // Short questions, long answers: all are let in, and not all have room until they end.
        setting.blocks = rng.random_range(8..12);
        for ask in &mut asks {
            ask.prompt.truncate(20);
            ask.comes %= 4;
            ask.parameters.max_new_tokens = rng.random_range(40..80);
            ask.parameters.ignore_eos = rng.random_bool(0.7);
            ask.parameters.stop.truncate(usize::from(rng.random_bool(0.2)));
        }
        let (serial, ahead) = (run(&asks, setting), ahead(&asks, setting));
        for (number, (one, other)) in serial.events.iter().zip(&ahead.events).enumerate() {
            assert_eq!(said(one), said(other), "seed {seed}, request {number}: {:?}", asks[number]);
        }
        steps += ahead.ahead;
        preemptions += ahead.preemptions;
    }
    assert!(steps > 10_000 && preemptions > 200, "{steps} steps ahead, {preemptions} preemptions: this tests little");
}

/// All of a wave are let in at once, and nothing is thrown away: then the cache depends on nobody's speed.
#[test]
fn the_prefix_cache_holds_the_same_and_gives_the_same() {
    let mut cached_tokens = 0;
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut asks = asks(&mut rng, 0.0);
        let waves = rng.random_range(1..4);
        asks.iter_mut().for_each(|ask| ask.comes = rng.random_range(0..waves) * 1000);
        let budget = Budget { tokens: 8192, running: 64 };
        let setting = Setting { ability: Ability::Serial, faults: Faults::default(), budget, blocks: 4000, room: 3 };
        // What earlier waves were answered is asked about in later ones.
        let first = run(&asks, setting);
        for (ask, events) in asks.clone().into_iter().zip(first.events) {
            let answer = events.into_iter().filter_map(|event| match event {
                Event::Token { token, .. } => Some(token.id),
                _ => None,
            });
            let mut prompt: Vec<u32> = ask.prompt.iter().copied().chain(answer).collect();
            prompt.push(u32::from(LETTERS[0]));
            asks.push(Ask { prompt, comes: waves * 1000, ..ask });
        }
        let (serial, ahead) = (run(&asks, setting), ahead(&asks, setting));
        assert_eq!(serial.cached, ahead.cached, "seed {seed}");
        for (one, other) in serial.events.iter().zip(&ahead.events) {
            assert_eq!(format!("{one:?}"), format!("{other:?}"), "seed {seed}");
            let usage = one.iter().filter_map(|event| if let Event::Done(usage) = event { Some(usage) } else { None });
            cached_tokens += usage.map(|usage| usage.cached_tokens).sum::<usize>();
        }
    }
    assert!(cached_tokens > 10_000, "{cached_tokens} tokens were found in the cache: this tests little");
}

#[test]
fn clients_that_leave_and_deadlines_change_nothing_for_others() {
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut asks, setting) = (asks(&mut rng, 0.1), setting(&mut rng));
        let stayed = run(&asks, setting);
        for ask in &mut asks {
            ask.leaves = rng.random_bool(0.4).then(|| rng.random_range(0..20));
            ask.timeout = rng.random_bool(0.2).then(|| Duration::from_micros(rng.random_range(0..2000)));
        }
        let left = ahead(&asks, setting);
        for (number, (one, other)) in stayed.events.iter().zip(&left.events).enumerate() {
            let (all, mut heard) = (said(one), said(other));
            if let Some(Event::Failed(EngineError::Timeout(_))) =
                other.last().filter(|_| asks[number].timeout.is_some())
            {
                heard.pop();
            } else if asks[number].leaves.is_none_or(|leaves| tokens(one) < leaves) {
                assert_eq!(all.len(), heard.len(), "seed {seed}, request {number}: {:?}", asks[number]);
            }
            assert_eq!(all[..heard.len()], heard, "seed {seed}, request {number}: {:?}", asks[number]);
        }
    }
}

#[test]
fn a_step_that_fails_takes_its_own_requests_along_and_leaves_the_others_their_answers() {
    let mut failed = 0;
    for seed in 0..400 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (asks, mut setting) = (asks(&mut rng, 0.1), setting(&mut rng));
        let sound = run(&asks, setting);
        let at = Some(rng.random_range(1..30));
        let panics = rng.random_bool(0.2);
        setting.faults = match rng.random() {
            true => Faults { begin: at, finish: None, panics },
            false => Faults { begin: None, finish: at, panics },
        };
        let faulty = ahead(&asks, setting);
        for (number, (one, other)) in sound.events.iter().zip(&faulty.events).enumerate() {
            let (all, mut heard) = (said(one), said(other));
            if let Some(Event::Failed(EngineError::Step(_))) = other.last() {
                failed += 1;
                heard.pop();
            } else {
                assert_eq!(all.len(), heard.len(), "seed {seed}, request {number}: {:?}", asks[number]);
            }
            assert_eq!(all[..heard.len()], heard, "seed {seed}, request {number}: {:?}", asks[number]);
        }
    }
    assert!(failed > 300, "{failed} requests failed: this tests little");
}

#[test]
fn a_step_that_scores_is_waited_for_by_nobody() {
    let ask = Ask { scores: true, adapter: 1, ..of_the_base() };
    let budget = Budget { tokens: 10, running: 8 };
    let setting = Setting { ability: Ability::Ahead, faults: Faults::default(), budget, blocks: 8, room: 1 };
    let heard = run(&vec![ask; 8], setting);
    assert!(heard.events.iter().all(|events| matches!(events[..], [Event::Scores(_), ..])), "{:?}", heard.events);
    // One step each; all but the first begin while another is under way.
    assert_eq!(heard.ahead, 7);
}

#[test]
fn a_client_that_leaves_while_its_scores_have_to_be_waited_for_takes_nobody_along() {
    let stays = of_the_base();
    let leaves = Ask { scores: true, adapter: 3, ..stays.clone() };
    let budget = Budget { tokens: 64, running: 4 };
    let setting = Setting { ability: Ability::Ahead, faults: Faults::default(), budget, blocks: 8, room: 1 };
    // In one of the turns its step is under way.
    for gone in 1..8 {
        let heard = run(&[stays.clone(), Ask { gone: Some(gone), ..leaves.clone() }], setting);
        assert_eq!(tokens(&heard.events[0]), 20, "it leaves in turn {gone}: {:?}", heard.events[0].last());
    }
}

#[test]
fn an_answer_that_only_its_length_ends_takes_no_step_too_many() {
    let budget = Budget { tokens: 64, running: 4 };
    let setting = Setting { ability: Ability::Ahead, faults: Faults::default(), budget, blocks: 2, room: 1 };
    let heard = run(&[of_the_base()], setting);
    // Of twenty steps all but the first begin while another is under way.
    assert_eq!((tokens(&heard.events[0]), heard.ahead), (20, 19));
}
