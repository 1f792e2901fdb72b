//! A loaded model: its weights, its vocabulary, what its file says.
//!
//! Loaded on the thread that loads the Triton model; shared, immutable, by an intake thread, which
//! tokenises, and the worker thread, whose runner computes with the weights. Knows nothing of
//! sequences.

use std::path::Path;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::error::{LoadError, TokenizeError};
use super::gguf::ModelFile;
use super::lease::Leases;
use super::load::{self, LoadParams};
use super::sampler::{Sampler, SamplerFactory};
use crate::engine::{Sharing, Token};
use crate::protocol::{RequestError, SamplingParams};

/// Bytes that one text may have, so that every count in llama.cpp's C interface holds it.
const MAX_TEXT_BYTES: usize = 256 << 20;

/// Architectures whose cache is several caches side by side, or holds what is no key or value of one
/// token: llama.cpp does not promise for them that a beginning can be shared.
const UNSHARED: [&str; 7] = [
    "deepseek32",
    "deepseek4",
    "dots3note",
    "glm-dsa",
    "glm5-next",
    "hy_v4",
    "minimax-m3",
];

/// Characters that a vocabulary of [`splits_by_std_regex`] takes without a change to or from white
/// space.
///
/// C++'s regular expressions recurse for each character of a match, and a match ends at such a
/// change. Measured on 64 MiB of stack, which an intake thread has: all take this many, and all
/// but one (`superbpe`, in digits) twice as many.
const MAX_RUN_CHARS: usize = 32 * 1024;

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    // Dropped before what they are on: until then it must stay mapped.
    leases: Option<Leases>,
    inner: LlamaModel,
    file: ModelFile,
    n_vocab: usize,
    bos: String,
    eos: String,
    max_piece_bytes: usize,
    chat_template: Option<String>,
    samplers: SamplerFactory,
}

impl Model {
    /// Checks the file and loads it; takes as long as reading the weights does.
    pub fn load(path: &Path, params: &LoadParams) -> Result<Self, LoadError> {
        Self::load_checked(ModelFile::read(path)?, params)
    }

    /// Loads a file that was checked when it was read.
    pub fn load_checked(file: ModelFile, params: &LoadParams) -> Result<Self, LoadError> {
        let path = file.path().to_owned();
        if file.tensors.is_empty() && !params.vocab_only {
            return Err(LoadError::NoWeights(path));
        }
        let (use_mmap, leases) = load::hold(&file, params)?;
        let inner = load::load(&path, params, use_mmap)?;
        if let Some(leases) = &leases {
            leases.loaded().map_err(|source| LoadError::Maps {
                file: path.clone(),
                source,
            })?;
        }
        Self::new(inner, leases, file, &path)
    }

    fn new(
        inner: LlamaModel,
        leases: Option<Leases>,
        file: ModelFile,
        path: &Path,
    ) -> Result<Self, LoadError> {
        let unusable = |what| LoadError::Unusable {
            file: path.to_owned(),
            what,
        };
        let vocab = inner.vocab();
        let n_vocab = usize::try_from(vocab.n_tokens()).unwrap_or(0);
        let is_known = |token: LlamaToken| usize::try_from(token.0).is_ok_and(|id| id < n_vocab);
        if n_vocab == 0 {
            return Err(unusable("an empty vocabulary"));
        }
        // llama.cpp asserts these when it tokenises, for `bert` whatever the file says of adding them.
        let is_bert = file.tokenizer == "bert";
        if (is_bert || vocab.should_add_bos()) && !is_known(vocab.bos())
            || vocab.should_add_eos() && !is_known(vocab.eos())
            || (is_bert || vocab.should_add_sep()) && !is_known(vocab.sep())
        {
            return Err(unusable(
                "a tokenizer that adds a special token it does not have",
            ));
        }
        let text_of = |token: LlamaToken| match is_known(token) {
            true => String::from_utf8_lossy(&vocab.token_to_piece(token, true, None)).into_owned(),
            false => String::new(),
        };
        let mut piece = Vec::with_capacity(256);
        let mut max_piece_bytes = 1;
        let mut ends = Vec::new();
        for token in vocab.tokens() {
            piece.clear();
            vocab.token_to_piece_into(token, &mut piece, true, None);
            max_piece_bytes = max_piece_bytes.max(piece.len());
            if vocab.is_eog(token) {
                ends.push(Token(token.0));
            }
        }
        let suppressed = vocab.suppress_tokens();
        let suppressed = suppressed.iter().map(|token| Token(token.0)).collect();
        let chat_template = inner.chat_template(None).ok();
        Ok(Self {
            n_vocab,
            bos: text_of(vocab.bos()),
            eos: text_of(vocab.eos()),
            max_piece_bytes,
            chat_template: chat_template
                .and_then(|template| template.to_string().ok())
                // Some converters write the key where there is none.
                .filter(|template| !template.trim().is_empty()),
            samplers: SamplerFactory::new(n_vocab, ends, suppressed),
            leases,
            inner,
            file,
        })
    }

    /// Whether its files were changed in a way that the weights are lost.
    pub(super) fn is_lost(&self) -> bool {
        self.leases.as_ref().is_some_and(Leases::is_lost)
    }

    /// What the file's header says.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// Tokens of the vocabulary; every [`Token`] is below.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// Tokens of context that the model was trained with.
    pub fn n_ctx_train(&self) -> u32 {
        self.inner.n_ctx_train()
    }

    /// The Jinja source that came with the model.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The text of the token that begins a text; empty if the model has none.
    pub fn bos_text(&self) -> &str {
        &self.bos
    }

    /// The text of the token that ends a text; empty if the model has none.
    pub fn eos_text(&self) -> &str {
        &self.eos
    }

    /// The tokens that end a generation.
    pub fn ends(&self) -> &[Token] {
        self.samplers.ends()
    }

    /// The most bytes of text that one token stands for.
    ///
    /// A text of more than `n` times as many bytes has more than `n` tokens, where the tokenizer keeps
    /// every byte. Those that drop white space or put one token for a word that they do not know may
    /// give fewer.
    pub fn max_piece_bytes(&self) -> usize {
        self.max_piece_bytes
    }

    /// Whether `token` ends a generation.
    pub fn is_end(&self, token: Token) -> bool {
        self.inner.vocab().is_eog(LlamaToken(token.0))
    }

    /// The bytes of the token's text: none for a special token, not always whole characters.
    pub fn piece(&self, token: Token) -> Vec<u8> {
        if usize::try_from(token.0).is_ok_and(|id| id < self.n_vocab) {
            self.inner
                .vocab()
                .token_to_piece(LlamaToken(token.0), false, None)
        } else {
            Vec::new()
        }
    }

    /// The tokens of a prompt that a chat template made.
    ///
    /// Special tokens are recognised in the text, and the beginning of text is added where the
    /// model wants one and the template has not written it. Needs a stack of 64 MiB.
    pub fn tokenize_prompt(&self, text: &str) -> Result<Vec<Token>, TokenizeError> {
        let has_bos = !self.bos.is_empty() && text.starts_with(&self.bos);
        // A prompt is to be continued, so no token may be added that ends it.
        let vocab = self.inner.vocab();
        let add_bos = vocab.should_add_bos() && !has_bos;
        let mut tokens = self.tokenize(text, add_bos, true)?;
        let eos = Token(vocab.eos().0);
        if add_bos && vocab.should_add_eos() && tokens.last() == Some(&eos) {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// Whether the vocabulary has a token of just this text, which must be short.
    pub fn is_one_token(&self, text: &str) -> bool {
        self.tokenize(text, false, true)
            .is_ok_and(|tokens| tokens.len() == 1)
    }

    /// The tokens of a text, as llama.cpp's `llama_tokenize`. Needs a stack of 64 MiB.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>, TokenizeError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizeError::TooLong {
                n_bytes: text.len(),
                limit: MAX_TEXT_BYTES,
            });
        }
        let splits = matches!(self.file.tokenizer.as_str(), "gpt2" | "hybriddna");
        if splits && splits_by_std_regex(&self.file.pre_tokenizer) {
            check_runs(text, self.file.pre_tokenizer == "exaone-moe")?;
        }
        // Room for a token a byte and the special ones: with less, llama.cpp may have to start over.
        let mut tokens = Vec::with_capacity(text.len() + 8);
        let vocab = self.inner.vocab();
        vocab.tokenize_into(text.as_bytes(), &mut tokens, add_special, parse_special);
        // A kind that has no token for an unknown text gives -1, or whatever number the file names.
        let is_known =
            |token: &LlamaToken| usize::try_from(token.0).is_ok_and(|id| id < self.n_vocab);
        if let Some(index) = tokens.iter().position(|token| !is_known(token)) {
            return Err(TokenizeError::NoToken {
                index,
                id: tokens[index].0,
                max_id: self.n_vocab - 1,
            });
        }
        let mut tokens: Vec<_> = tokens.into_iter().map(|token| Token(token.0)).collect();
        // It has the allocation made above, which the request would hold as long as it runs.
        tokens.shrink_to_fit();
        Ok(tokens)
    }

    /// A sampler for a sequence that starts with `prompt`.
    ///
    /// # Errors
    /// Where a rule that the request asks for cannot be made.
    pub fn sampler(
        &self,
        params: &SamplingParams,
        prompt: &[Token],
    ) -> Result<Sampler, RequestError> {
        self.samplers.sampler(&self.inner, params, prompt)
    }

    /// What sequences of this model may share in a cache that all of them use.
    pub(super) fn sharing(&self) -> Sharing {
        if UNSHARED.contains(&self.file.architecture.as_str()) {
            Sharing::None
        } else if self.has_states() || self.has_window() {
            Sharing::Whole
        } else {
            Sharing::Prefix
        }
    }

    /// Whether a sequence has a state that each of its tokens changes, and no earlier one can be had.
    pub(super) fn has_states(&self) -> bool {
        self.inner.is_recurrent() || self.inner.is_hybrid()
    }

    /// Whether what a sequence has computed can be cut back to any beginning of it.
    pub fn can_be_cut(&self) -> bool {
        self.sharing() == Sharing::Prefix
    }

    /// Whether some layers look at the last tokens only, and may forget those before them.
    pub(super) fn has_window(&self) -> bool {
        // SAFETY: the model is alive; the call only reads a number.
        unsafe { llama_cpp_sys_2::llama_model_n_swa(self.raw()) > 0 }
    }

    /// llama.cpp's model, alive as long as this one.
    pub(super) fn raw(&self) -> *mut llama_cpp_sys_2::llama_model {
        let model = &raw const self.inner;
        // SAFETY: in the version pinned, `LlamaModel` is a transparent wrapper around a non-null
        // pointer to the model.
        unsafe { *model.cast() }
    }
}

/// Whether llama.cpp splits texts of this kind by C++'s regular expressions, not by code of its own.
fn splits_by_std_regex(pre_tokenizer: &str) -> bool {
    const OWN_CODE: [&str; 20] = [
        "llama3",
        "llama-v3",
        "llama-bpe",
        "falcon3",
        "dbrx",
        "smaug-bpe",
        "chatglm-bpe",
        "gpt-2",
        "phi-2",
        "mpt",
        "olmo",
        "jais",
        "trillion",
        "qwen2",
        "stablelm2",
        "hunyuan",
        "qwen35",
        "kimi-k2",
        "gemma4",
        "sarvam-moe",
    ];
    !OWN_CODE.contains(&pre_tokenizer)
}

/// `across_spaces`: whether this vocabulary's matches go past single spaces.
fn check_runs(text: &str, across_spaces: bool) -> Result<(), TokenizeError> {
    let mut n_chars = 0;
    let mut in_space = false;
    for (offset, character) in text.char_indices() {
        let is_space = character.is_whitespace() && !(across_spaces && character == ' ');
        if is_space != in_space {
            in_space = is_space;
            n_chars = 0;
        }
        n_chars += 1;
        if n_chars > MAX_RUN_CHARS {
            return Err(TokenizeError::LongRun {
                offset,
                limit: MAX_RUN_CHARS,
            });
        }
    }
    Ok(())
}
