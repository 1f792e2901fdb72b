//! Reads the parameters of a model configuration, and checks which of them go together.
//!
//! `config::parse` calls it once per load, on the model-initialize thread. What a parameter may be for itself
//! is said by its row in `table`. Pure.

use std::collections::BTreeMap;

use super::ConfigError;
use super::offload;
use super::parameters::Parameters;
use super::raw::RawParameter;
use super::table::{TABLE, Written};
use super::values::{FlashAttention, SpeculativeMethod};
use crate::protocol::{Settings, defaults};
use crate::table::{Given, Rules};

/// Names that Triton's core reads from the same map.
fn passes(name: &str) -> bool {
    name.starts_with("TRITON_")
}

impl Parameters {
    /// Reads and checks the map as a whole.
    pub(crate) fn read(map: &BTreeMap<String, RawParameter>) -> Result<Self, ConfigError> {
        let mut written = Written::default();
        let rules = Rules {
            n_ctx: None,
            strict: true,
            passes,
        };
        let pairs = map.iter().map(|(name, parameter)| {
            let value = Given::Text(parameter.string_value.clone());
            (name.clone(), value)
        });
        let given = TABLE.read(&mut written, pairs, &rules)?;

        let mut parameters = written.parameters;
        if parameters.n_ctx == 1 {
            return Err(ConfigError::ContextOfOne);
        }
        let devices = written.devices.as_deref();
        parameters.devices = devices.map(offload::read_devices).transpose()?;
        if let Some(text) = written.tensor_split {
            let split = offload::read_split(&text, parameters.split_mode)?;
            parameters.tensor_split = Some(split);
        }
        if let Some(text) = written.override_tensor {
            parameters.override_tensor = offload::read_overrides(&text)?;
        }
        if let Some(json) = written.sampling_json {
            // Checked here; read once more when the defaults of the model's file are known.
            defaults(Settings::default(), &[], &json).map_err(ConfigError::Defaults)?;
            parameters.sampling_parameters = json;
        }
        if parameters.chat_template.is_some() && parameters.chat_template_file.is_some() {
            return Err(ConfigError::TwoTemplates);
        }
        if parameters.n_ubatch > parameters.n_batch {
            if given.contains(&"n_ubatch") {
                return Err(ConfigError::AboveOther {
                    name: "n_ubatch",
                    value: parameters.n_ubatch,
                    other: "n_batch",
                    limit: parameters.n_batch,
                });
            }
            parameters.n_ubatch = parameters.n_batch;
        }
        parameters.check_speculation(&given)?;
        // llama.cpp refuses the pair when the context is made, without saying which setting.
        if parameters.cache_type_v.is_quantized() && parameters.flash_attn == FlashAttention::Off {
            return Err(ConfigError::QuantizedWithoutFlash {
                cache_type: parameters.cache_type_v.as_str(),
            });
        }
        Ok(parameters)
    }

    fn check_speculation(&mut self, given: &[&'static str]) -> Result<(), ConfigError> {
        let is_draft_model = self.speculative_method == SpeculativeMethod::DraftModel;
        match (is_draft_model, self.speculative_model.is_some()) {
            (true, false) => return Err(ConfigError::NoDraftModel),
            (false, true) => return Err(ConfigError::UnusedDraftModel),
            _ => {}
        }
        let (min, max) = (self.prompt_lookup_min, self.prompt_lookup_max);
        match (
            given.contains(&"prompt_lookup_min"),
            given.contains(&"prompt_lookup_max"),
        ) {
            // As vLLM: one that is not set gives way to the other.
            (true, false) => self.prompt_lookup_max = max.max(min),
            (false, _) => self.prompt_lookup_min = min.min(max),
            (true, true) if min > max => {
                return Err(ConfigError::AboveOther {
                    name: "prompt_lookup_min",
                    value: min,
                    other: "prompt_lookup_max",
                    limit: max,
                });
            }
            (true, true) => {}
        }
        Ok(())
    }
}
