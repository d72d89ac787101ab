//! Where the time of a step goes, as a table.

use std::fmt::Write;
use std::time::Duration;

use crate::profile::Part;

/// A line for each part that ran, the rest of the step, and the step itself.
pub fn table(measured: &[(Part, Duration, u64)]) -> String {
    let (step, steps) = measured
        .iter()
        .find(|(part, ..)| *part == Part::Step)
        .map_or((Duration::ZERO, 0), |&(_, time, count)| (time, count));
    let parts = || measured.iter().filter(|(part, ..)| *part != Part::Step);
    // A part that is measured outside of any step may exceed it by a hair.
    let rest = step.saturating_sub(parts().map(|(_, time, _)| *time).sum());
    let mut table = format!("        {:<14}{:>10}{:>9}{:>12}{:>10}\n", "part", "ms", "% step", "us a step", "times");
    let mut line = |name: &str, time: Duration, count: Option<u64>| {
        let share = if step.is_zero() { 0.0 } else { 100.0 * time.as_secs_f64() / step.as_secs_f64() };
        let per_step = time.as_secs_f64() * 1e6 / steps.max(1) as f64;
        let times = count.map_or_else(String::new, |count| count.to_string());
        let milliseconds = time.as_secs_f64() * 1e3;
        // Writing to text cannot fail.
        let _ = writeln!(table, "        {name:<14}{milliseconds:>10.1}{share:>9.1}{per_step:>12.1}{times:>10}");
    };
    for (part, time, count) in parts().filter(|(_, _, count)| *count > 0) {
        line(part.name(), *time, Some(*count));
    }
    line("the rest", rest, None);
    line("step", step, Some(steps));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_the_rest_come_to_the_step() {
        let ms = Duration::from_millis;
        let table = table(&[
            (Part::Step, ms(100), 10),
            (Part::Linear, ms(70), 420),
            (Part::Sample, ms(20), 10),
            (Part::Heads, ms(0), 0),
        ]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["linear", "70.0", "70.0", "7000.0", "420"]);
        assert_eq!(rows[2], ["sample", "20.0", "20.0", "2000.0", "10"]);
        assert_eq!(rows[3], ["the", "rest", "10.0", "10.0", "1000.0"]);
        assert_eq!(rows[4], ["step", "100.0", "100.0", "10000.0", "10"]);
    }
}
