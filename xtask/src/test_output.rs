//! What `cargo test` printed, understood: how many tests passed, which failed, and what those said.
//!
//! Responsible for: reading the lines of cargo and of the test programs, in one stream. Guarantees: every failed test is
//! named once, with why it panicked and the end of its output; a test program that died without a summary counts as one
//! failure; what a test or its processes print is not taken for progress of the tests; memory is bounded. Must not know: how
//! cargo is run.

use std::collections::VecDeque;

/// Lines kept of one failed test, from its end.
const KEPT_LINES: usize = 160;
/// Failed tests whose output is kept; of further ones the name is.
const KEPT_FAILURES: usize = 20;
/// Lines of a panic that say why, ahead of the backtrace, and characters of each.
const WHY_LINES: usize = 6;
const WHY_CHARS: usize = 400;

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

#[derive(Default, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The test program, as cargo names it.
    pub program: String,
    /// The test; empty when the program as a whole failed.
    pub test: String,
    pub output: VecDeque<String>,
    /// Where it panicked first and with what.
    pub why: Vec<String>,
    why_is_whole: bool,
}

impl Failure {
    fn of(program: &str, test: &str, output: VecDeque<String>) -> Self {
        Self { program: program.to_owned(), test: test.to_owned(), output, why: Vec::new(), why_is_whole: false }
    }

    fn line(&mut self, line: &str) {
        push(&mut self.output, line);
        let begins = self.why.is_empty() && line.contains("panicked at");
        let goes_on = !self.why.is_empty() && !self.why_is_whole;
        self.why_is_whole |= goes_on && (line.starts_with("stack backtrace") || self.why.len() == WHY_LINES);
        if begins || (goes_on && !self.why_is_whole) {
            self.why.push(line.chars().take(WHY_CHARS).collect());
        }
    }
}

/// A test program that ran to its end.
#[derive(Clone, PartialEq, Debug)]
pub struct Ran {
    pub program: String,
    pub seconds: f64,
}

#[derive(Default, PartialEq, Eq)]
enum Part {
    #[default]
    Anything,
    /// Below `failures:`: outputs, then names.
    Failures,
    /// The output of the failure at this place.
    OutputOf(usize),
}

#[derive(Default)]
pub struct TestOutput {
    pub count: Count,
    pub failures: Vec<Failure>,
    pub ran: Vec<Ran>,
    /// Tests that libtest said run for long, of the program that runs now.
    slow: Vec<String>,
    program: String,
    has_summary: bool,
    part: Part,
    tail: VecDeque<String>,
}

impl TestOutput {
    /// Something that is no test of cargo's failed.
    pub fn fail(&mut self, program: &str, test: &str, why: String) {
        self.count.failed += 1;
        let mut failure = Failure::of(program, test, VecDeque::new());
        failure.why.push(why);
        self.failures.push(failure);
    }

    /// Whether the line says that something goes on: cargo speaks, or a test began or ended. What the processes of a test
    /// print says nothing of the kind: a mount logs its vain attempts for ever.
    pub fn is_progress(&self, line: &str) -> bool {
        let runs = !self.program.is_empty() && !self.has_summary;
        !runs || ["test ", "running "].iter().any(|beginning| line.starts_with(beginning))
    }

    pub fn line(&mut self, line: &str) {
        push(&mut self.tail, line);
        let trimmed = line.trim_start();
        if let Some(program) = trimmed.strip_prefix("Running ").or_else(|| trimmed.strip_prefix("Doc-tests ")) {
            self.begin(program);
        } else if let Some(summary) = line.strip_prefix("test result: ") {
            self.end(summary);
        } else if line.starts_with("error: test failed") || line.starts_with("error: doctest failed") {
            self.program_failed();
        } else if line == "failures:" {
            self.part = Part::Failures;
        } else if line == "successes:" {
            self.part = Part::Anything;
        } else if let Some(test) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failed(test);
        } else if let Some((test, _)) = line.strip_prefix("test ").and_then(|r| r.split_once(" has been running for")) {
            self.slow.push(test.to_owned());
        } else if self.part != Part::Anything {
            self.of_a_failure(line);
        }
    }

    /// Tests of the running program that were said to take long and have not failed.
    pub fn running_long(&self) -> String {
        if self.slow.is_empty() { "no test was named".to_owned() } else { self.slow.join(", ") }
    }

    pub fn program(&self) -> &str {
        &self.program
    }

    fn begin(&mut self, program: &str) {
        program.clone_into(&mut self.program);
        self.has_summary = false;
        self.part = Part::Anything;
        self.slow.clear();
        self.tail.clear();
    }

    fn end(&mut self, summary: &str) {
        self.part = Part::Anything;
        self.has_summary = true;
        let Some((_, counts)) = summary.split_once(". ") else { return };
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(number), Some("passed"), _) => self.count.passed += number.parse::<u64>().unwrap_or(0),
                (Some(number), Some("failed"), _) => self.count.failed += number.parse::<u64>().unwrap_or(0),
                (Some(number), Some("ignored"), _) => self.count.ignored += number.parse::<u64>().unwrap_or(0),
                (Some("finished"), Some("in"), Some(time)) => {
                    let seconds = time.trim_end_matches('s').parse().unwrap_or(0.0);
                    self.ran.push(Ran { program: self.program.clone(), seconds });
                }
                _ => {}
            }
        }
    }

    /// Cargo says so after the summary too; only without one is it news.
    fn program_failed(&mut self) {
        if !self.has_summary {
            self.count.failed += 1;
            let output = std::mem::take(&mut self.tail);
            self.failures.push(Failure::of(&self.program, "", output));
            self.has_summary = true;
        }
    }

    fn failed(&mut self, test: &str) -> usize {
        let known = self.failures.iter().position(|f| f.program == self.program && f.test == test);
        known.unwrap_or_else(|| {
            self.failures.push(Failure::of(&self.program, test, VecDeque::new()));
            self.failures.len() - 1
        })
    }

    fn of_a_failure(&mut self, line: &str) {
        let heading = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(test) = heading {
            self.part = Part::OutputOf(self.failed(test));
        } else if let Part::OutputOf(index) = self.part {
            if index < KEPT_FAILURES
                && let Some(failure) = self.failures.get_mut(index)
            {
                failure.line(line);
            }
        } else if let Some(test) = line.strip_prefix("    ") {
            // The names once more. A test that printed nothing is only here.
            self.failed(test);
        }
    }
}

fn push(lines: &mut VecDeque<String>, line: &str) {
    if lines.len() == KEPT_LINES {
        lines.pop_front();
    }
    lines.push_back(line.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> TestOutput {
        let mut output = TestOutput::default();
        text.lines().for_each(|line| output.line(line));
        output
    }

    #[test]
    fn the_summaries_of_several_test_programs_add_up() {
        let output = read(
            "     Running unittests src/lib.rs (target/release/deps/a-1)\n\
             test a::b ... ok\n\
             test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s\n\
             \x20    Running tests/b.rs (target/release/deps/b-1)\n\
             test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s\n",
        );
        assert_eq!(output.count, Count { passed: 14, failed: 3, ignored: 1 });
        assert_eq!(output.ran[1], Ran { program: "tests/b.rs (target/release/deps/b-1)".to_owned(), seconds: 2.5 });
    }

    #[test]
    fn a_failed_test_is_named_once_with_the_end_of_what_it_said() {
        let noise: String = (0..200).map(|n| format!("noise {n}\n")).collect();
        let output = read(&format!(
            "     Running tests/b.rs (x)\ntest good ... ok\ntest bad ... FAILED\ntest silent ... FAILED\n\n\
             successes:\n\n---- good stdout ----\nnot of interest\n\nsuccesses:\n    good\n\nfailures:\n\n\
             ---- bad stdout ----\nthread 'bad' panicked at a.rs:1:2:\nno\nstack backtrace:\n{noise}panicked at here\n\n\nfailures:\n    bad\n    silent\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s\n\
             error: test failed, to rerun pass `-p weft-tests --test b`\n"
        ));
        let names: Vec<&str> = output.failures.iter().map(|f| f.test.as_str()).collect();
        assert_eq!(names, ["bad", "silent"]);
        assert!(output.failures[0].output.iter().any(|l| l == "panicked at here"));
        assert_eq!(output.failures[0].why, ["thread 'bad' panicked at a.rs:1:2:", "no"]);
        assert!(output.failures[0].output.len() <= KEPT_LINES);
        assert!(output.failures.iter().all(|f| f.output.iter().all(|l| !l.contains("not of interest"))));
        assert_eq!(output.count.failed, 2);
    }

    #[test]
    fn what_the_processes_of_a_test_print_is_no_progress() {
        let mut output = read("   Compiling a v0.1.0\n");
        assert!(output.is_progress("   Compiling b v0.1.0"));
        for line in ["     Running tests/b.rs (x)", "running 2 tests", "test good ... ok"] {
            assert!(output.is_progress(line), "{line}");
            output.line(line);
        }
        assert!(!output.is_progress("2026-11-30T10:00:00Z  INFO mount: tries again"));
        assert!(output.is_progress("test bad ... FAILED"));
        output
            .line("test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s");
        assert!(output.is_progress("   Compiling c v0.1.0"));
    }

    #[test]
    fn a_program_that_died_counts_as_a_failure_and_shows_its_end() {
        let output = read(
            "     Running tests/b.rs (x)\ntest slow has been running for over 60 seconds\nlast words\n\
             error: test failed, to rerun pass `-p weft-tests --test b`\n",
        );
        assert_eq!(output.count.failed, 1);
        assert_eq!(output.failures[0].program, "tests/b.rs (x)");
        assert!(output.failures[0].output.iter().any(|l| l == "last words"));
        assert_eq!(output.running_long(), "slow");
    }
}
