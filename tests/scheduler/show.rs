//! Plans and events as short texts, for tables.

use triton_llm::engine::{CacheOp, Ended, Event, Plan};

/// `-0 1@0:0-2*`: slot 0 is emptied; sequence 1 in slot 0 runs positions 0 to 2, then samples.
/// `0[16] 0>1[16]`: slot 0 keeps 16 tokens, and slot 1 shares them.
pub fn show_plan(plan: &Plan) -> String {
    let changes = plan.cache.iter().map(|op| match op {
        CacheOp::Keep { slot, n_tokens: 0 } => format!("-{}", slot.0),
        CacheOp::Keep { slot, n_tokens } => format!("{}[{n_tokens}]", slot.0),
        CacheOp::Share { from, to, n_tokens } => format!("{}>{}[{n_tokens}]", from.0, to.0),
        CacheOp::Save {
            slot,
            start,
            end,
            block,
        } => format!("{}[{start}-{end}]>#{}", slot.0, block.0),
        CacheOp::Load { slot, block } => format!("#{}>{}", block.0, slot.0),
        CacheOp::Drop { block } => format!("-#{}", block.0),
    });
    let runs = plan.rows.chunk_by(|a, b| a.sequence == b.sequence);
    let runs = runs.map(|run| {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let end = if last.output { "*" } else { "" };
        let (id, slot, pos) = (first.sequence.0, first.slot.0, first.pos);
        if run.len() == 1 {
            return format!("{id}@{slot}:{pos}{end}");
        }
        format!("{id}@{slot}:{pos}-{}{end}", last.pos)
    });
    changes.chain(runs).collect::<Vec<_>>().join(" ")
}

/// `1!+x.length(2,3)`: 1 started, gave a token whose text is `x`, and ended with 2 tokens of the prompt
/// and 3 chosen.
pub fn show_events(events: &[Event]) -> String {
    let shown = events.iter().map(|event| {
        let start = if event.started { "!" } else { "" };
        let chosen = event
            .chosen
            .iter()
            .map(|chosen| format!("+{}", chosen.text));
        let end = event.end.map(|Ended { reason, usage }| {
            let (n_prompt, n_completion) = (usage.prompt_tokens, usage.completion_tokens);
            format!(".{}({n_prompt},{n_completion})", reason.as_str())
        });
        let (id, chosen) = (event.sequence.0, chosen.collect::<String>());
        format!("{id}{start}{chosen}{}", end.unwrap_or_default())
    });
    shown.collect::<Vec<_>>().join(" ")
}
