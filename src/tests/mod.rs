//! Random input for all parsers of hostile bytes. Each target has a corpus in `tests/corpus`. `make test` replays it with a
//! fixed set of mutations. `make fuzz` mutates for a given time. An input with a new outcome becomes a seed.

#![expect(clippy::print_stdout, reason = "a run prints how to repeat it")]

mod fuzz_tests;

use std::collections::HashSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The environment variable for the time of each target, in seconds.
const SECONDS: &str = "FUZZ_SECONDS";
/// The environment variable that repeats a run: the number that the run printed.
const SEED: &str = "FUZZ_SEED";
/// The number of mutations of each target in `make test`.
const MUTATIONS: usize = 300;
/// The longest input.
const MAX_INPUT: usize = 16 * 1024;
/// The time limit of one input, which is generous for a busy machine. A longer time means that it grows faster than the input.
const MAX_TIME: Duration = Duration::from_secs(5);
/// The maximum number of seeds.
const MAX_SEEDS: usize = 2000;

/// Significant words of the formats.
const WORDS: [&[u8]; 40] = [
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"\x1b[2J",
    b"\xc2\x9b",
    b"\xe2\x80\xae",
    b"\xe2\x80\x8b",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\"",
    b"\\",
    b"\\\"",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"%",
    b"%n",
    b"../",
    b"/",
    b"#",
    b"=",
    b"Host *",
    b"Match all",
    b"HTTP/1.1 100 \r\n\r\n",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"HTTP/1.1 ",
    b"AADSTS",
];

/// Calls `property` with the corpus of `target` and with mutations of it. The property panics if the code is wrong, and returns
/// a short text for the outcome.
pub(crate) fn each_input(target: &str, property: impl Fn(&[u8]) -> String) {
    let mut seeds = corpus(target);
    let mut seen = HashSet::new();
    for input in &seeds {
        seen.insert(class(&run(target, &property, input)));
    }
    let limit = std::env::var(SECONDS).ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let mut random = Random(seed(limit.is_some()));
    let (start, mut count) = (Instant::now(), 0);
    while limit.map_or(count < MUTATIONS, |limit| start.elapsed() < limit) {
        let input = mutated(&seeds, &mut random);
        let outcome = class(&run(target, &property, &input));
        if seen.insert(outcome) && seeds.len() < MAX_SEEDS {
            seeds.push(input);
        }
        count += 1;
    }
    println!("fuzz {target}: {count} inputs, {} outcomes", seen.len());
}

/// Returns the committed inputs of a target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Returns the seed: the same one for each `make test`, so that its result does not vary.
fn seed(vary: bool) -> u64 {
    let variable = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = variable.unwrap_or(if vary { clock } else { 1 });
    if vary {
        println!("{SEED}={seed}");
    }
    seed | 1
}

/// Returns the class of an outcome. Outcomes that differ only in numbers have the same class.
fn class(outcome: &str) -> String {
    outcome.chars().filter(|c| !c.is_ascii_digit()).take(200).collect()
}

/// Runs the property, and saves an input that fails, for the corpus.
fn run(target: &str, property: impl Fn(&[u8]) -> String, input: &[u8]) -> String {
    let start = Instant::now();
    match catch_unwind(AssertUnwindSafe(|| property(input))) {
        Ok(outcome) => {
            assert!(start.elapsed() < MAX_TIME, "{} took {:?}", save(target, input), start.elapsed());
            outcome
        }
        Err(panic) => {
            println!("the input is in {}", save(target, input));
            resume_unwind(panic)
        }
    }
}

fn save(target: &str, input: &[u8]) -> String {
    let file = std::env::temp_dir().join(format!("arcssh-fuzz-{target}-{}", std::process::id()));
    fs::write(&file, input).unwrap();
    file.display().to_string()
}

/// Returns a seed with one to four mutations.
fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        mutate(&mut input, seeds, random);
    }
    input.truncate(MAX_INPUT);
    input
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let (at, length) = (random.below(input.len() + 1), 1 + random.below(32));
    let end = (at + length).min(input.len());
    match random.below(9) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => drop(input.drain(at..end)),
        3 => {
            let again = input[at..end].repeat(1 + random.below(40));
            input.splice(at..at, again);
        }
        4 => {
            let word = WORDS[random.below(WORDS.len())];
            input.splice(at..at, word.iter().copied());
        }
        5 => {
            let word = WORDS[random.below(WORDS.len())];
            input.splice(at..end, word.iter().copied());
        }
        6 => input.truncate(at),
        7 => {
            let other = &seeds[random.below(seeds.len())];
            input.splice(at.., other[random.below(other.len() + 1)..].iter().copied());
        }
        _ => {
            let other = input[at..end].to_vec();
            let target = random.below(input.len() + 1);
            input.splice(target..target, other);
        }
    }
}

/// xorshift64 (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Returns whether a text is safe to print: it neither controls a terminal nor starts another line.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}

/// Returns the text of an input.
pub(crate) fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// Runs work that only reads bytes from memory.
pub(crate) fn finish<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}
