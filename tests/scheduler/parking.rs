//! What ended sequences held goes to host memory and comes back: small stories.

use crate::sharing::{Story, prompt};
use triton_llm::engine::{Limits, SequenceId, Sharing, Token};

struct Parking(Story);

impl Parking {
    /// One sequence runs all the time, in slot 0.
    fn new(n_host: usize, n_rows_to_park: usize) -> Self {
        let mut story = Story::within(Limits {
            n_slots: 3,
            n_kept: 4,
            n_cells: 400,
            sharing: Sharing::Prefix,
            n_host,
            n_rows_to_park,
            n_batch: 128,
            ..Limits::default()
        });
        story.submit(0, &prompt(0, 0, 4), 300);
        story.step("0@0:0-3*");
        Self(story)
    }

    fn submit(&mut self, id: u64, prompt: &[Token]) {
        self.0.submit(id, prompt, 9);
    }

    /// Runs a sequence to its end, and returns what happened to the cache before its rows.
    fn end(&mut self, id: u64, prompt: &[Token]) -> String {
        self.0.submit(id, prompt, 1);
        let first = self.step();
        while self.0.finished(id).is_none() {
            assert_eq!(self.step(), "");
        }
        first
    }

    /// Runs a step, and returns what happened to the cache.
    fn step(&mut self) -> String {
        let plan = self.0.run();
        let ops = plan.split(' ').filter(|word| !word.contains('@'));
        ops.collect::<Vec<_>>().join(" ")
    }

    fn check(&self, n_cached: usize, n_host: usize) {
        let stats = self.0.scheduler.stats();
        let found = (stats.n_cached_cells, stats.n_host_tokens);
        assert_eq!(found, (n_cached, n_host));
    }
}

fn then(tokens: &[Token], more: &[Token]) -> Vec<Token> {
    [tokens, more].concat()
}

#[test]
fn a_chat_leaves_the_cache_and_comes_back() {
    let mut story = Parking::new(100, 3);
    let chat = prompt(1, 0, 30);
    assert_eq!(story.end(1, &chat), "");
    assert_eq!([story.step(), story.step(), story.step()], [""; 3]);
    story.check(30, 0);
    assert_eq!(story.step(), "1[0-30]>#1 -1");
    story.check(0, 30);
    assert_eq!(story.end(2, &then(&chat, &prompt(2, 0, 4))), "#1>1");
    assert_eq!(story.0.cached_tokens(2), 30);
    story.check(34, 0);
}

#[test]
fn a_prompt_that_is_long_enough_finds_the_cache_tidied() {
    let mut story = Parking::new(100, 40);
    story.end(1, &prompt(1, 0, 30));
    story.end(2, &prompt(2, 0, 20));
    story.check(50, 0);
    story.submit(3, &prompt(3, 0, 45));
    assert_eq!(story.step(), "1>3[30] -1 3[0-30]>#1 -3 2[0-20]>#2 -2");
    story.check(0, 50);
}

#[test]
fn nothing_leaves_while_nobody_else_runs() {
    let mut story = Parking::new(100, 0);
    story.end(1, &prompt(1, 0, 30));
    story.0.scheduler.cancel(SequenceId(0));
    assert_eq!(story.step(), "-0");
    assert!(story.0.scheduler.is_idle());
    story.check(30, 0);
}

#[test]
fn a_common_beginning_is_saved_once_and_comes_back_once() {
    let mut story = Parking::new(100, 0);
    let [a, b] = [1, 2].map(|id| prompt(id, 20, 16));
    story.end(1, &a);
    // The first one leaves as soon as it may; what both begin with stays with the second.
    assert_eq!(story.end(2, &b), "1>2[20] 1[20-36]>#1 -1");
    assert_eq!(story.step(), "2[20-36]>#2 2[0-20]>#3 -2");
    story.check(0, 52);
    story.submit(3, &then(&a, &[Token(7)]));
    assert_eq!(story.step(), "#3>1 #1>1");
    story.submit(4, &then(&b, &[Token(8)]));
    assert_eq!(story.step(), "1>2[20] #2>2");
    story.check(0, 0);
}

#[test]
fn who_shares_the_beginning_of_a_block_leaves_the_rest_to_its_owner() {
    let mut story = Parking::new(100, 0);
    let chat = prompt(1, 20, 30);
    story.end(1, &chat);
    assert_eq!(story.step(), "1[0-50]>#1 -1");
    story.submit(2, &prompt(2, 20, 2));
    assert_eq!(story.step(), "#1>1 1[20-50]>#2 1[20]");
    story.check(0, 30);
    story.submit(3, &then(&chat, &[Token(7)]));
    assert_eq!(story.step(), "1>2[20] #2>2");
    story.check(0, 0);
}

#[test]
fn a_few_tokens_of_a_block_are_computed_again() {
    let mut story = Parking::new(100, 0);
    let chat = prompt(1, 20, 30);
    story.end(1, &chat);
    story.submit(2, &prompt(2, 20, 30));
    assert_eq!(story.step(), "1>2[20] 1[20-50]>#1 -1");
    story.submit(3, &then(&chat[..35], &[Token(7)]));
    assert_eq!(story.step(), "2>1[20]");
    story.check(0, 30);
}

#[test]
fn of_what_lies_in_host_memory_the_oldest_is_given_up() {
    let mut story = Parking::new(50, 0);
    for id in [1, 2] {
        story.end(id, &prompt(id as i32, 0, 25));
        story.step();
    }
    story.check(0, 50);
    story.end(3, &prompt(3, 0, 16));
    assert_eq!(story.step(), "-#1 1[0-16]>#3 -1");
    story.check(0, 25 + 16);
    // What is larger than all of it is not kept at all.
    story.end(4, &prompt(4, 0, 51));
    assert_eq!(story.step(), "-1");
    story.check(0, 25 + 16);
}

/// Where cells are short, what has ended goes to host memory first, and comes back when there is room.
#[test]
fn a_large_prompt_drives_a_chat_out_and_costs_it_nothing() {
    let mut story = Parking::new(400, 1000);
    let chat = prompt(1, 0, 100);
    story.end(1, &chat);
    story.check(100, 0);
    story.submit(2, &prompt(2, 0, 320));
    assert_eq!(story.step(), "1[0-100]>#1 -1");
    story.submit(3, &then(&chat, &[Token(7)]));
    while story.0.finished(2).is_none() {
        story.check(0, 100);
        story.step();
    }
    while story.0.finished(3).is_none() {
        story.step();
    }
    assert_eq!(story.0.cached_tokens(3), 100);
}
