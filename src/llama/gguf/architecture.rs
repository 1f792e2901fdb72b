//! What the keys of an architecture must say so that llama.cpp does not assert.
//!
//! Called while a model file's header is read; pure. The lists follow llama.cpp's `src/models`, and
//! the checks `load_hparams` in its `llama-model.cpp`. What one architecture alone asserts of its own
//! keys is not repeated here.

use super::error::{Problem, value};
use super::header::Header;

/// llama.cpp's limit.
const MAX_EXPERTS: u32 = 1024;

const ROPE_SCALINGS: &[&str] = &["none", "linear", "yarn", "longrope"];

/// Models that turn text into vectors or sound, need an encoder or another model beside them, or
/// fill gaps: nothing that continues a text by itself.
const NOT_GENERATIVE: &[&str] = &[
    "bert",
    "clef",
    "clip",
    "dflash",
    "dream",
    "eagle3",
    "eurobert",
    "gemma-embedding",
    "gemma4-assistant",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "pockettts",
    "qwen3tts",
    "rnd1",
    "t5",
    "t5encoder",
    "wavtokenizer-dec",
];

/// Without experts, these assert.
const NEEDS_EXPERTS: &[&str] = &["bailingmoe2", "glm4moe", "grovemoe", "smallthinker"];

/// These take a single expert for none.
const ONE_EXPERT_IS_NONE: &[&str] = &["hunyuan-dense", "hunyuan_vl"];

/// Positions of these are not rotated into the heads.
const NO_ROPE: &[&str] = &[
    "arwkv7",
    "bloom",
    "glm5-next",
    "gpt2",
    "gptj",
    "jais",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "mamba",
    "mamba2",
    "mpt",
    "nemotron_h",
    "nemotron_h_moe",
    "refact",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
];

/// These assert that keys and values are of one length.
const ONE_LENGTH: &[&str] = &[
    "afmoe",
    "bailingmoe2",
    "bitnet",
    "bloom",
    "chatglm",
    "cohere2",
    "command-r",
    "deepseek4",
    "glm4",
    "glm4moe",
    "gpt2",
    "gptneox",
    "granitehybrid",
    "jais",
    "laguna",
    "lfm2",
    "lfm2moe",
    "maple",
    "minimax-01",
    "minimax-m2",
    "minimax-m3",
    "mpt",
    "muse-glimmer",
    "nanbeige",
    "nemotron",
    "nemotron_h",
    "nemotron_h_moe",
    "openelm",
    "phi2",
    "phi3",
    "phimoe",
    "qwen",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
    "refact",
    "spark2_5",
    "stablelm",
    "starcoder",
];

/// These assert that keys and values are of one length, and rotated as a whole.
const WHOLLY_ROTATED: &[&str] = &[
    "apertus",
    "arcee",
    "arctic",
    "baichuan",
    "chameleon",
    "codeshell",
    "cogvlm",
    "cohere2moe",
    "dbrx",
    "deci",
    "deepseek",
    "dots1",
    "ernie4_5",
    "ernie4_5-moe",
    "exaone",
    "exaone-moe",
    "exaone4",
    "falcon",
    "granite",
    "granite_swa",
    "granitemoe",
    "graniteswitch",
    "grok",
    "grovemoe",
    "hunyuan-dense",
    "hunyuan-moe",
    "hunyuan_vl",
    "hy_v3",
    "internlm2",
    "jais2",
    "llama",
    "llama4",
    "maincoder",
    "mellum",
    "minicpm",
    "mistral3",
    "olmo",
    "olmo2",
    "olmoe",
    "orion",
    "paddleocr",
    "pangu-embedded",
    "plamo",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3vl",
    "qwen3vlmoe",
    "seed_oss",
    "smallthinker",
    "smollm3",
    "starcoder2",
    "talkie",
    "xverse",
];

/// Layers of these may differ in their heads: their graphs ask each layer for its own.
const HEADS_BY_LAYER: &[&str] = &[
    "bailingmoe3",
    "deci",
    "dots3note",
    "gemma4",
    "glm5-next",
    "granite",
    "granite_swa",
    "granitehybrid",
    "granitemoe",
    "graniteswitch",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "laguna",
    "lfm2",
    "lfm2moe",
    "mimo2",
    "nemotron_h",
    "nemotron_h_moe",
    "openelm",
    "plamo2",
    "plamo3",
    "spark2_5",
    "step35",
];

/// These have no attention, and so no heads of it.
const NO_HEADS: &[&str] = &["arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"];

/// These rotate sections of each head by positions of several kinds, and divide by their number.
const SECTIONS_NEEDED: &[&str] = &[
    "paddleocr",
    "qwen2vl",
    "qwen35",
    "qwen35moe",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen4exp",
];

/// The keys of one architecture.
pub(super) struct Keys<'a> {
    pub(super) header: &'a Header,
    pub(super) architecture: &'a str,
}

/// How long the keys and values of one head are.
#[derive(Clone, Copy)]
pub(super) struct Lengths {
    pub(super) key: u32,
    pub(super) value: u32,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A number, if the key is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<u32>, Problem> {
        self.header.u32(&self.name(key))
    }

    /// A number from 1.
    pub(super) fn needed(&self, key: &str) -> Result<u32, Problem> {
        match self.number(key)? {
            Some(found) if found > 0 => Ok(found),
            Some(_) => Err(value(&self.name(key), 0, "at least 1")),
            None => Err(Problem::MissingKey {
                key: self.name(key),
            }),
        }
    }

    /// A number for each layer, if the key is there.
    pub(super) fn per_layer(&self, key: &str, n_layers: u32) -> Result<Option<Vec<u32>>, Problem> {
        self.header.per_layer(&self.name(key), n_layers)
    }

    fn is_in(&self, architectures: &[&str]) -> bool {
        architectures.contains(&self.architecture)
    }

    fn wrong<T>(
        &self,
        key: &str,
        found: impl ToString,
        expected: impl Into<String>,
    ) -> Result<T, Problem> {
        Err(value(&self.name(key), found, expected))
    }

    /// Refuses what does not continue a text.
    pub(super) fn check_generates(&self) -> Result<(), Problem> {
        let is_causal = self.header.flag(&self.name("attention.causal")) != Some(false);
        if self.is_in(NOT_GENERATIVE) || !is_causal {
            return Err(Problem::NotGenerative(self.architecture.to_owned()));
        }
        Ok(())
    }

    /// The layers that only draft tokens are some of all.
    pub(super) fn check_drafting_layers(&self, n_layers: u32) -> Result<(), Problem> {
        const KEY: &str = "nextn_predict_layers";
        match self.number(KEY)? {
            Some(found) if found >= n_layers => {
                let limit = self.name("block_count");
                self.wrong(KEY, found, format!("less than {limit} = {n_layers}"))
            }
            _ => Ok(()),
        }
    }

    /// The numbers of experts and of their groups fit each other.
    pub(super) fn check_experts(&self, n_layers: u32) -> Result<(), Problem> {
        const COUNT: &str = "expert_count";
        const USED: &str = "expert_used_count";
        const GROUPS: &str = "expert_group_count";
        const GROUPS_USED: &str = "expert_group_used_count";
        let count = self.number(COUNT)?.unwrap_or(0);
        let used = self.per_layer(USED, n_layers)?.unwrap_or_default();
        let used = used.into_iter().max().unwrap_or(0);
        let groups = self.number(GROUPS)?.unwrap_or(0);
        let groups_used = self.number(GROUPS_USED)?.unwrap_or(0);
        if count > MAX_EXPERTS {
            return Err(Problem::TooMany {
                what: self.name(COUNT),
                found: count.into(),
                limit: MAX_EXPERTS.into(),
            });
        }
        let of_count = format!("{} = {count}", self.name(COUNT));
        let is_none = count == 0 || count == 1 && self.is_in(ONE_EXPERT_IS_NONE);
        if is_none {
            if self.is_in(NEEDS_EXPERTS) {
                return self.wrong(COUNT, count, "at least 1");
            }
            if count == 0 && used > 0 && !self.is_in(ONE_EXPERT_IS_NONE) {
                return self.wrong(USED, used, format!("0, as {of_count}"));
            }
            if groups > 0 {
                return self.wrong(GROUPS, groups, format!("0, as {of_count}"));
            }
            return Ok(());
        }
        if !(1..=count).contains(&used) {
            return self.wrong(USED, used, format!("from 1 to {of_count}"));
        }
        if groups >= count {
            return self.wrong(GROUPS, groups, format!("less than {of_count}"));
        }
        if groups > 1 && !count.is_multiple_of(groups) {
            return self.wrong(GROUPS, groups, format!("a divisor of {of_count}"));
        }
        if groups > 1 && !(1..groups).contains(&groups_used) {
            let limit = self.name(GROUPS);
            let expected = format!("at least 1 and less than {limit} = {groups}");
            return self.wrong(GROUPS_USED, groups_used, expected);
        }
        Ok(())
    }

    /// The way positions are stretched is one that llama.cpp knows.
    pub(super) fn check_rope_scaling(&self) -> Result<(), Problem> {
        const KEY: &str = "rope.scaling.type";
        match self.header.text(&self.name(KEY)) {
            Ok(found) if !ROPE_SCALINGS.contains(&found.as_str()) => {
                let known = ROPE_SCALINGS.join(", ");
                self.wrong(KEY, format!("\"{found}\""), format!("one of {known}"))
            }
            Ok(_) | Err(Problem::MissingKey { .. }) => Ok(()),
            Err(problem) => Err(problem),
        }
    }

    /// What some architectures ask of states and of their own keys.
    pub(super) fn check_own_keys(&self, n_embd: u32) -> Result<(), Problem> {
        const INNER: &str = "ssm.inner_size";
        let inner = self.number(INNER)?;
        match self.architecture {
            "jamba" | "granitehybrid" if inner.map(u64::from) != Some(2 * u64::from(n_embd)) => {
                let limit = self.name("embedding_length");
                let expected = format!("twice {limit} = {n_embd}");
                return self.wrong(INNER, inner.unwrap_or(0), expected);
            }
            "lfm2" | "lfm2moe" if self.number("shortconv.l_cache")? == Some(1) => {
                return self.wrong("shortconv.l_cache", 1, "at least 2");
            }
            "rwkv6" | "rwkv7" => {
                const KEY: &str = "token_shift_count";
                if let Some(found) = self.number(KEY)?.filter(|&found| found != 2) {
                    return self.wrong(KEY, found, "2");
                }
            }
            "ernie4_5-moe" => {
                self.needed("interleave_moe_layer_step")?;
            }
            _ => {}
        }
        // Whose heads and groups divide the state between them.
        let divides = [
            "mamba2",
            "falcon-h1",
            "granitehybrid",
            "nemotron_h",
            "nemotron_h_moe",
            "plamo2",
        ];
        let Some(inner) = inner.filter(|_| self.is_in(&divides)) else {
            return Ok(());
        };
        let heads = self.needed("ssm.time_step_rank")?;
        let groups = self.number("ssm.group_count")?.unwrap_or(0).max(1);
        for (key, n) in [("ssm.time_step_rank", heads), ("ssm.group_count", groups)] {
            if !inner.is_multiple_of(n) {
                let expected = format!("a divisor of {} = {inner}", self.name(INNER));
                return self.wrong(key, n, expected);
            }
        }
        Ok(())
    }

    /// The layers have heads, and as many each where the architecture knows no others.
    pub(super) fn check_heads_by_layer(
        &self,
        n_heads: &[u32],
        n_kv: &[u32],
    ) -> Result<(), Problem> {
        if self.is_in(NO_HEADS) || self.is_in(HEADS_BY_LAYER) {
            return Ok(());
        }
        for (key, numbers) in [
            ("attention.head_count", n_heads),
            ("attention.head_count_kv", n_kv),
        ] {
            let first = numbers.first().copied().unwrap_or(0);
            if first == 0 {
                return self.wrong(key, first, "at least 1");
            }
            let other = numbers.iter().zip(0..).find(|&(&n, _)| n != first);
            if let Some((other, layer)) = other {
                let expected = format!("{first} as in layer 0, not another in layer {layer}");
                return self.wrong(key, other, expected);
            }
        }
        Ok(())
    }

    /// The sections of a head that is rotated by several positions.
    fn check_rope_sections(&self, rotated: u32) -> Result<(), Problem> {
        const KEY: &str = "rope.dimension_sections";
        let Some(sections) = self.header.integers(&self.name(KEY))? else {
            return match self.is_in(SECTIONS_NEEDED) {
                true => Err(Problem::MissingKey {
                    key: self.name(KEY),
                }),
                false => Ok(()),
            };
        };
        let sum = sections.iter().try_fold(0i64, |sum, &n| sum.checked_add(n));
        let fits = sections.iter().all(|&n| n >= 0)
            && sum.is_some_and(|sum| sum <= rotated.into())
            && (!self.is_in(SECTIONS_NEEDED) || sections.iter().take(3).any(|&n| n > 0));
        match fits {
            true => Ok(()),
            false => self.wrong(
                KEY,
                format!("{sections:?}"),
                format!(
                    "numbers from 0, not all of them 0, that add up to {rotated}, the rotated part \
                     of a head, at most"
                ),
            ),
        }
    }

    /// Each head of keys and values is shared by as many others.
    pub(super) fn check_kv_heads(&self, n_heads: &[u32], n_kv: &[u32]) -> Result<(), Problem> {
        for (layer, (&n_heads, &n_kv)) in n_heads.iter().zip(n_kv).enumerate() {
            if n_kv > 0 && !n_heads.is_multiple_of(n_kv) {
                let limit = self.name("attention.head_count");
                let expected = format!("a divisor of {limit} = {n_heads} (layer {layer})");
                return self.wrong("attention.head_count_kv", n_kv, expected);
            }
        }
        Ok(())
    }

    /// The lengths of the heads fit each other and the part of them that is rotated.
    ///
    /// `full` are those of `n_heads` heads; layers with a sliding window may have their own.
    pub(super) fn check_heads(&self, full: Lengths, n_heads: u32) -> Result<(), Problem> {
        // Without heads in the first layer, llama.cpp takes all lengths for 0.
        if n_heads == 0 {
            return Ok(());
        }
        let rotated = self.number("rope.dimension_count")?.unwrap_or(full.key);
        self.check_rope_sections(rotated)?;
        self.check_lengths("", full, rotated)?;
        let key = self.number("attention.key_length_swa")?;
        let value = self.number("attention.value_length_swa")?;
        let rotated_here = self.number("rope.dimension_count_swa")?;
        if key.is_none() && value.is_none() && rotated_here.is_none() {
            return Ok(());
        }
        let window = Lengths {
            key: key.unwrap_or(full.key),
            value: value.unwrap_or(full.value),
        };
        self.check_lengths("_swa", window, rotated_here.unwrap_or(rotated))
    }

    fn check_lengths(&self, suffix: &str, heads: Lengths, rotated: u32) -> Result<(), Problem> {
        let Lengths { key, value } = heads;
        let of_key = format!(
            "{} = {key}",
            self.name(&format!("attention.key_length{suffix}"))
        );
        let wholly = self.is_in(WHOLLY_ROTATED);
        if value != key && (wholly || self.is_in(ONE_LENGTH)) {
            let name = format!("attention.value_length{suffix}");
            return self.wrong(&name, value, format!("as {of_key}"));
        }
        let name = format!("rope.dimension_count{suffix}");
        if wholly && rotated != key {
            return self.wrong(&name, rotated, format!("as {of_key}"));
        }
        if self.is_in(NO_ROPE) {
            return Ok(());
        }
        if rotated > key {
            return self.wrong(&name, rotated, format!("at most {of_key}"));
        }
        if !rotated.is_multiple_of(2) {
            return self.wrong(&name, rotated, "even");
        }
        Ok(())
    }
}
