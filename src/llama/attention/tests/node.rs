//! Nodes of attention as llama.cpp has them, and what is to come of them.

use std::ops::Range;
use std::ptr;

use llama_cpp_sys_2 as sys;

use super::super::*;

/// The shape of a node.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) n_numbers: usize,
    pub(super) n_values: usize,
    pub(super) n_groups: usize,
    pub(super) n_heads_per_group: usize,
    pub(super) n_cells: usize,
    pub(super) n_streams: usize,
    /// For each row the sequence that it is of: it looks at that one's cells, and at those of sequence 0.
    pub(super) rows: Vec<usize>,
    pub(super) kind: sys::ggml_type,
    pub(super) softcap: f32,
    pub(super) has_sinks: bool,
    pub(super) seed: u64,
}

impl Shape {
    pub(super) fn n_heads(&self) -> usize {
        self.n_groups * self.n_heads_per_group
    }
}

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % n
    }

    /// Numbers from -1 to 1.
    pub(super) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| self.below(129) as f32 / 64.0 - 1.0)
            .collect()
    }
}

/// A tensor and its bytes.
pub(super) struct Source {
    pub(super) tensor: Box<sys::ggml_tensor>,
    pub(super) bytes: Vec<u8>,
}

impl Source {
    /// A tensor whose dimensions lie in this order, the first of them without gaps.
    pub(super) fn new(
        kind: sys::ggml_type,
        ne: [usize; 4],
        order: [usize; 3],
        mut bytes: Vec<u8>,
    ) -> Self {
        let mut tensor = described(kind, ne);
        let mut n_bytes = row_bytes(kind, ne[0]);
        for dimension in order {
            tensor.nb[dimension] = n_bytes;
            n_bytes *= ne[dimension];
        }
        assert_eq!(n_bytes, bytes.len());
        tensor.data = bytes.as_mut_ptr().cast();
        Self {
            tensor: Box::new(tensor),
            bytes,
        }
    }

    /// With the numbers that llama.cpp reads from it, row by row.
    pub(super) fn of_numbers(
        kind: sys::ggml_type,
        ne: [usize; 4],
        order: [usize; 3],
        numbers: &[f32],
    ) -> (Self, Vec<Vec<f32>>) {
        let mut bytes = Vec::new();
        let mut read = Vec::new();
        for row in numbers.chunks(ne[0]) {
            let coded = coded(kind, row);
            read.push(decoded(kind, &coded, ne[0]));
            bytes.extend(coded);
        }
        (Self::new(kind, ne, order, bytes), read)
    }
}

pub(super) fn described(kind: sys::ggml_type, ne: [usize; 4]) -> sys::ggml_tensor {
    // SAFETY: all zeros is a valid value of a struct of numbers and pointers.
    let mut tensor: sys::ggml_tensor = unsafe { std::mem::zeroed() };
    tensor.type_ = kind;
    tensor.ne = ne.map(|n| n as i64);
    // SAFETY: the call looks a kind up in a constant table.
    tensor.nb[0] = unsafe { sys::ggml_type_size(kind) };
    tensor
}

pub(super) fn row_bytes(kind: sys::ggml_type, n_numbers: usize) -> usize {
    // SAFETY: the call looks a kind up in a constant table.
    unsafe { sys::ggml_row_size(kind, n_numbers as i64) }
}

pub(super) fn coded(kind: sys::ggml_type, numbers: &[f32]) -> Vec<u8> {
    if kind == sys::GGML_TYPE_F32 {
        return numbers
            .iter()
            .flat_map(|number| number.to_ne_bytes())
            .collect();
    }
    let mut bytes = vec![0; row_bytes(kind, numbers.len())];
    // SAFETY: `bytes` are as many as these numbers take of this kind, and `numbers` can be read.
    unsafe {
        let from_float = (*sys::ggml_get_type_traits(kind)).from_float_ref;
        let from_float = from_float.expect("every type of a cache has it");
        from_float(
            numbers.as_ptr(),
            bytes.as_mut_ptr().cast(),
            numbers.len() as i64,
        );
    }
    bytes
}

pub(super) fn decoded(kind: sys::ggml_type, bytes: &[u8], n_numbers: usize) -> Vec<f32> {
    if kind == sys::GGML_TYPE_F32 {
        let numbers = bytes.as_chunks().0.iter();
        return numbers.map(|bytes| f32::from_ne_bytes(*bytes)).collect();
    }
    let mut numbers = vec![0.0; n_numbers];
    // SAFETY: `numbers` has room for as many as are read, and `bytes` are a whole row of them.
    unsafe {
        let to_float = (*sys::ggml_get_type_traits(kind)).to_float;
        let to_float = to_float.expect("every type of a cache has it");
        to_float(
            bytes.as_ptr().cast(),
            numbers.as_mut_ptr(),
            n_numbers as i64,
        );
    }
    numbers
}

/// A node, all that it points to, and what is to come of it.
pub(super) struct Node {
    pub(super) node: sys::ggml_tensor,
    pub(super) sources: Vec<Source>,
    pub(super) out: Vec<f32>,
    pub(super) expected: Vec<f32>,
}

impl Node {
    pub(super) fn new(shape: &Shape) -> Self {
        let mut random = Random(shape.seed);
        let (n_rows, n_heads, n_streams) = (shape.rows.len(), shape.n_heads(), shape.n_streams);
        let (n_cells, n_groups) = (shape.n_cells, shape.n_groups);
        // As llama.cpp's permuted views have it: head by head, then token by token.
        let permuted = [2, 1, 3];
        let numbers = random.numbers(shape.n_numbers * n_rows * n_heads * n_streams);
        let ne = [shape.n_numbers, n_rows, n_heads, n_streams];
        let (q, queries) = Source::of_numbers(sys::GGML_TYPE_F32, ne, permuted, &numbers);
        let [(k, keys), (v, values)] = [shape.n_numbers, shape.n_values].map(|n| {
            let numbers = random.numbers(n * n_cells * n_groups * n_streams);
            Source::of_numbers(
                shape.kind,
                [n, n_cells, n_groups, n_streams],
                permuted,
                &numbers,
            )
        });
        let n_sequences = shape.rows.iter().max().map_or(0, |max| max + 1);
        let mut seen: Vec<Vec<bool>> = Vec::new();
        for _ in 0..n_streams {
            let owners: Vec<usize> = (0..n_cells)
                .map(|_| random.below(n_sequences + 1))
                .collect();
            let rows = shape.rows.iter();
            seen.extend(rows.map(|row| {
                owners
                    .iter()
                    .map(|owner| [0, *row].contains(owner))
                    .collect()
            }));
        }
        let infinity = |seen: &bool| if *seen { 0_u16 } else { 0xFC00 };
        let mask = seen
            .iter()
            .flatten()
            .flat_map(|seen| infinity(seen).to_ne_bytes());
        let ne = [n_cells, n_rows, 1, n_streams];
        let mask = Source::new(sys::GGML_TYPE_F16, ne, [1, 2, 3], mask.collect());
        let sinks = random.numbers(n_heads);
        let ne = [n_heads, 1, 1, 1];
        let (sink, _) = Source::of_numbers(sys::GGML_TYPE_F32, ne, [1, 2, 3], &sinks);

        let scale = 4.0 / (shape.n_numbers as f32).sqrt();
        let mut expected = Vec::new();
        for (row, seen) in seen.iter().enumerate() {
            for head in 0..n_heads {
                let cells = (0..n_cells).filter(|&cell| seen[cell]);
                let cells = cells.map(|cell| {
                    let cell = row / n_rows * n_cells + cell;
                    cell * n_groups + head / shape.n_heads_per_group
                });
                expected.extend(attended(
                    &queries[row * n_heads + head],
                    cells.map(|cell| (&keys[cell], &values[cell])),
                    (scale, shape.softcap),
                    shape.has_sinks.then(|| sinks[head]),
                    shape.n_values,
                ));
            }
        }
        let mut node = described(
            sys::GGML_TYPE_F32,
            [shape.n_values, n_heads, n_rows, n_streams],
        );
        node.nb[1] = row_bytes(sys::GGML_TYPE_F32, shape.n_values);
        node.nb[2] = node.nb[1] * n_heads;
        node.nb[3] = node.nb[2] * n_rows;
        node.op = sys::GGML_OP_FLASH_ATTN_EXT;
        for (at, param) in [scale, 0.0, shape.softcap].into_iter().enumerate() {
            node.op_params[at] = param.to_bits().cast_signed();
        }
        let mut sources = vec![q, k, v, mask, sink];
        sources.truncate(if shape.has_sinks { 5 } else { 4 });
        Self::assembled(node, sources, expected.len(), expected)
    }

    fn assembled(
        mut node: sys::ggml_tensor,
        mut sources: Vec<Source>,
        n_out: usize,
        expected: Vec<f32>,
    ) -> Self {
        let mut out = vec![f32::NAN; n_out];
        node.data = out.as_mut_ptr().cast();
        for (at, source) in sources.iter_mut().enumerate() {
            node.src[at] = ptr::from_mut(&mut source.tensor);
        }
        Self {
            node,
            sources,
            out,
            expected,
        }
    }

    /// The same but for the places of its cells, with some of its rows only.
    pub(super) fn moved(&self, shape: &Shape, places: &[usize], rows: Range<usize>) -> Self {
        let (n_rows, n_groups, n_cells) = (rows.len(), shape.n_groups, places.len());
        let mut sources = vec![{
            let row_bytes = row_bytes(sys::GGML_TYPE_F32, shape.n_numbers * shape.n_heads());
            let bytes =
                self.sources[0].bytes[rows.start * row_bytes..][..n_rows * row_bytes].to_vec();
            let ne = [shape.n_numbers, n_rows, shape.n_heads(), 1];
            Source::new(sys::GGML_TYPE_F32, ne, [2, 1, 3], bytes)
        }];
        for (source, n) in self.sources[1..3]
            .iter()
            .zip([shape.n_numbers, shape.n_values])
        {
            let cell_bytes = row_bytes(shape.kind, n) * n_groups;
            let mut bytes = vec![0; n_cells * cell_bytes];
            for (cell, place) in source.bytes.chunks(cell_bytes).zip(places) {
                bytes[place * cell_bytes..][..cell_bytes].copy_from_slice(cell);
            }
            sources.push(Source::new(
                shape.kind,
                [n, n_cells, n_groups, 1],
                [2, 1, 3],
                bytes,
            ));
        }
        let old = self.sources[3].bytes.chunks(2 * shape.n_cells);
        let mut mask = Vec::new();
        for row in old.skip(rows.start).take(n_rows) {
            let mut moved = vec![0xFC00_u16.to_ne_bytes(); n_cells];
            for (seen, place) in row.as_chunks().0.iter().zip(places) {
                moved[*place] = *seen;
            }
            mask.extend(moved.into_iter().flatten());
        }
        let ne = [n_cells, n_rows, 1, 1];
        sources.push(Source::new(sys::GGML_TYPE_F16, ne, [1, 2, 3], mask));
        if let Some(sinks) = self.sources.get(4) {
            let ne = [shape.n_heads(), 1, 1, 1];
            let bytes = sinks.bytes.clone();
            sources.push(Source::new(sys::GGML_TYPE_F32, ne, [1, 2, 3], bytes));
        }
        let mut node = self.node;
        node.ne[2] = n_rows as i64;
        node.nb[3] = node.nb[2] * n_rows;
        let n_out = n_rows * shape.n_heads() * shape.n_values;
        Self::assembled(node, sources, n_out, Vec::new())
    }

    /// As llama.cpp's graphs do: the cell at each of these places is of the next position.
    pub(super) fn tell_positions(&mut self, attention: &Attention, places: &[usize]) {
        let positions = (0..places.len() as i32)
            .flat_map(i32::to_ne_bytes)
            .collect();
        let places: Vec<u8> = places
            .iter()
            .flat_map(|at| (*at as i64).to_ne_bytes())
            .collect();
        let n = self.sources[1].tensor.ne[1] as usize;
        let keys = &self.sources[1].tensor;
        let mut written = described(keys.type_, [1, n, 1, 1]);
        written.op = sys::GGML_OP_SET_ROWS;
        written.data = keys.data;
        written.nb[1] = keys.nb[1];
        let mut turned = described(sys::GGML_TYPE_F32, [1; 4]);
        turned.op = sys::GGML_OP_ROPE;
        let user_data = ptr::from_ref(attention).cast_mut().cast();
        for (node, kind, bytes) in [
            (&mut written, sys::GGML_TYPE_I64, places),
            (&mut turned, sys::GGML_TYPE_I32, positions),
        ] {
            let n_numbers = bytes.len() / row_bytes(kind, 1);
            let mut source = Source::new(kind, [n_numbers, 1, 1, 1], [1, 2, 3], bytes);
            node.src[1] = ptr::from_mut(&mut source.tensor);
            // SAFETY: nobody else has the node, whose source lies beside it; both are in memory of this test.
            let is_wanted = unsafe { replace(ptr::from_mut(node), true, user_data) };
            assert!(!is_wanted);
            self.sources.push(source);
        }
    }

    /// As llama.cpp asks; whether the node was given another way to be computed.
    pub(super) fn ask(&mut self, attention: &Attention) -> bool {
        let user_data = ptr::from_ref(attention).cast_mut().cast();
        // SAFETY: nobody else has the node; its sources are null or in `sources`, with all their numbers.
        let is_wanted = unsafe { replace(&raw mut self.node, true, user_data) };
        assert!(!is_wanted);
        self.node.op == sys::GGML_OP_CUSTOM
    }

    /// As llama.cpp computes it, but one thread after the other.
    pub(super) fn compute(&mut self, attention: &Attention, n_threads: c_int) {
        let user_data = ptr::from_ref(attention).cast_mut().cast();
        for thread_idx in 0..n_threads {
            // SAFETY: the node was replaced, nobody else has it, and its sources and its result are in memory of
            // this test.
            unsafe { compute(&raw mut self.node, thread_idx, n_threads, user_data) };
        }
        assert!(!attention.take_failure());
    }

    pub(super) fn worst_error(&self) -> f32 {
        assert!(self.sources.iter().all(|source| !source.bytes.is_empty()));
        let pairs = self.out.iter().zip(&self.expected);
        let errors = pairs.map(|(found, expected)| (found - expected).abs());
        // Without losing what is no number.
        errors.fold(
            0.0,
            |worst, error| if error <= worst { worst } else { error },
        )
    }
}

/// The definition, in 64 bits.
pub(super) fn attended<'a>(
    query: &[f32],
    cells: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f32>)>,
    (scale, softcap): (f32, f32),
    sink: Option<f32>,
    n_values: usize,
) -> Vec<f32> {
    let mut total = sink.map_or(0.0, |sink| f64::from(sink).exp());
    let mut sums = vec![0.0; n_values];
    for (key, values) in cells {
        let products = query
            .iter()
            .zip(key)
            .map(|(a, b)| f64::from(*a) * f64::from(*b));
        let mut score = products.sum::<f64>() * f64::from(scale);
        if softcap > 0.0 {
            score = f64::from(softcap) * (score / f64::from(softcap)).tanh();
        }
        let weight = score.exp();
        total += weight;
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += weight * f64::from(*value);
        }
    }
    let factor = if total > 0.0 { 1.0 / total } else { 0.0 };
    sums.iter().map(|sum| (sum * factor) as f32).collect()
}
