use std::sync::Arc;
use std::time::Instant;
use triton_llm::engine::*;
use triton_llm::llama::*;
fn rows(seq: u64, slot: u16, from: u32, n: u32, out: bool) -> Vec<Row> {
    (from..from + n)
        .map(|p| Row {
            sequence: SequenceId(seq),
            slot: SlotId(slot),
            token: Token(1000 + ((p * 7 + seq as u32 * 13) % 5000) as i32),
            pos: p,
            output: out && p + 1 == from + n,
        })
        .collect()
}
fn fill(r: &mut Runner, slot: u16, n: u32) -> Vec<f64> {
    let mut t = vec![];
    let mut p = 0;
    while p < n {
        let k = (n - p).min(256);
        let s = Instant::now();
        r.run(&Plan {
            cache: vec![],
            rows: rows(slot as u64, slot, p, k, false),
        })
        .unwrap();
        t.push(s.elapsed().as_secs_f64() * 1e3 / k as f64);
        p += k;
    }
    t
}
fn decode(r: &mut Runner, slots: &[u16], pos: u32, steps: u32) -> f64 {
    let mut best = f64::MAX;
    for i in 0..steps {
        let mut v = vec![];
        for &s in slots {
            v.extend(rows(s as u64, s, pos + i, 1, true));
        }
        let s = Instant::now();
        r.run(&Plan {
            cache: vec![],
            rows: v,
        })
        .unwrap();
        best = best.min(s.elapsed().as_secs_f64() * 1e3);
    }
    best
}
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let model = Arc::new(Model::load(std::path::Path::new(&path), &LoadParams::default()).unwrap());
    for fa in [FlashAttention::On] {
        for (tv, name) in [(CacheType::F32, "f32"), (CacheType::F16, "f16")] {
            let params = ContextParams {
                n_slots: 64,
                n_cells: 24576,
                n_batch: 512,
                flash_attention: fa,
                type_v: tv,
                type_k: tv,
                ..Default::default()
            };
            let mut r = Runner::new(model.clone(), &params).unwrap();
            POS.with_borrow_mut(|m| m.clear());
            println!("== fa {fa:?} v {name} threads {}", r.n_threads());
            let p: triton_llm::protocol::SamplingParams = {
                let mut p = triton_llm::protocol::SamplingParams::default();
                p.temperature = 0.0;
                p
            };
            for s in 0..32u64 {
                r.open(SequenceId(s), &p, &[Token(1)]);
            }
            for s in 0..32u16 {
                fill(&mut r, s, 150);
            }
            for n in [1usize, 4, 8, 16, 32] {
                let sl: Vec<u16> = (0..n as u16).collect();
                let pos = 150 + [1, 4, 8, 16, 32].iter().position(|&x| x == n).unwrap() as u32 * 0;
                let _ = pos;
                let t = decode_at(&mut r, &sl);
                println!("decode n={n} own 150: {t:.1} ms");
            }
            let t = fill(&mut r, 40, 4352);
            println!(
                "prefill ms/row: 0:{:.2} 4k:{:.2} 8k:{:.2}",
                t[0], t[15], t[16]
            );
            for n in [1usize, 8, 32] {
                let sl: Vec<u16> = (0..n as u16).collect();
                let t = decode_at(&mut r, &sl);
                println!("decode n={n} own ~160, 8k foreign: {t:.1} ms");
            }
            let t = fill(&mut r, 41, 1024);
            println!(
                "prefill ms/row at 8k foreign: 0:{:.2} 768:{:.2}",
                t[0], t[3]
            );
            // shared 4k prefix
            let mut ops = vec![];
            for s in 0..16u16 {
                ops.push(CacheOp::Share {
                    from: SlotId(40),
                    to: SlotId(44 + s),
                    n_tokens: 4096,
                });
            }
            let s = Instant::now();
            r.run(&Plan {
                cache: ops,
                rows: vec![],
            })
            .unwrap();
            println!("16 shares {:.2} ms", s.elapsed().as_secs_f64() * 1e3);
            for s in 44..60u64 {
                r.open(SequenceId(s), &p, &[Token(1)]);
            }
            for n in [1usize, 8, 16] {
                let sl: Vec<u16> = (44..44 + n as u16).collect();
                let t = decode_at(&mut r, &sl);
                println!("decode n={n} shared 4k: {t:.1} ms");
            }
        }
    }
}
use std::cell::RefCell;
use std::collections::HashMap;
thread_local! {static POS:RefCell<HashMap<u16,u32>>=RefCell::default();}
fn decode_at(r: &mut Runner, slots: &[u16]) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let mut v = vec![];
        for &s in slots {
            let p = POS.with_borrow_mut(|m| {
                let e = m.entry(s).or_insert(if s >= 44 { 4096 } else { 150 });
                let q = *e;
                *e += 1;
                q
            });
            v.extend(rows(s as u64, s, p, 1, true));
        }
        let s = Instant::now();
        r.run(&Plan {
            cache: vec![],
            rows: v,
        })
        .unwrap();
        best = best.min(s.elapsed().as_secs_f64() * 1e3);
    }
    best
}
