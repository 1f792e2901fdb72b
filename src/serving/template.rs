//! Which chat template a model gets, and what the log says of it.
//!
//! Called once at load, by `start`. What a template wants of a conversation is `llama`'s to find out.

use std::fs;
use std::path::Path;

use super::error::LoadError;
use super::start::Launch;
use crate::config::MAX_TEMPLATE_BYTES;
use crate::llama::{self, CHATML, CHATML_END, ChatTemplate, RAW};

impl Launch<'_> {
    /// The chat template: the configuration's, else the model's own, else one that its vocabulary can speak.
    pub(super) fn template(&self, weights: &llama::Model) -> Result<ChatTemplate, LoadError> {
        let parameters = &self.config.parameters;
        let from_file;
        let source = if let Some(path) = &parameters.chat_template_file {
            from_file = read_template(&self.folder.join(path))?;
            &from_file
        } else if let Some(source) = &parameters.chat_template {
            source
        } else if let Some(source) = weights.chat_template() {
            source
        } else {
            self.stand_in(weights)
        };
        let template = ChatTemplate::new(source, weights.bos_text(), weights.eos_text())?;
        let (template, findings) = template.probed()?;
        for finding in findings {
            let name = &self.config.name;
            match finding.is_warning() {
                true => log::warn!("model '{name}': {finding}"),
                false => log::info!("model '{name}': {finding}"),
            }
        }
        Ok(template)
    }

    /// For a file without a template. A model that does not know ChatML's marks would write them out as text.
    fn stand_in(&self, weights: &llama::Model) -> &'static str {
        let knows_chatml = weights.is_one_token(CHATML_END);
        let (used, source) = match knows_chatml {
            true => ("ChatML is used", CHATML),
            false => (
                "its prompts are the plain texts of the messages, a line each, as its vocabulary lacks ChatML's marks",
                RAW,
            ),
        };
        log::warn!(
            "model '{}': the file has no chat template, {used}: \
             set 'chat_template' or 'chat_template_file' to change that",
            self.config.name
        );
        source
    }
}

/// Reads the chat template that the configuration names.
fn read_template(path: &Path) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::File {
        field: Some("config parameter 'chat_template_file'"),
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    if metadata.len() > MAX_TEMPLATE_BYTES as u64 {
        return Err(LoadError::TemplateTooLong {
            path: path.to_owned(),
            n_bytes: metadata.len(),
        });
    }
    fs::read_to_string(path).map_err(unreadable)
}
