//! Triton's ModelStreamInfer: one gRPC stream for each request, driven on the caller's thread.
//!
//! The messages are the part of the KServe v2 protocol that is used here, with its field numbers.

use std::collections::HashMap;
use std::time::Instant;

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use crate::{Events, Stop};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(map = "string, message", tag = "4")]
    pub parameters: HashMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferInputTensor>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub raw_input_contents: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferParameter {
    #[prost(oneof = "ParameterChoice", tags = "1, 2, 4")]
    pub choice: Option<ParameterChoice>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ParameterChoice {
    #[prost(bool, tag = "1")]
    Bool(bool),
    #[prost(int64, tag = "2")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
}

#[derive(Clone, PartialEq, Message)]
pub struct InferInputTensor {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelStreamInferResponse {
    #[prost(string, tag = "1")]
    pub error_message: String,
    #[prost(message, optional, tag = "2")]
    pub infer_response: Option<ModelInferResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub raw_output_contents: Vec<Vec<u8>>,
}

/// A request with one text, `text_input`.
pub fn request(
    model: &str,
    text: &str,
    parameters: Vec<(&str, ParameterChoice)>,
) -> ModelInferRequest {
    let length = (text.len() as u32).to_le_bytes();
    ModelInferRequest {
        model_name: model.to_owned(),
        parameters: parameters
            .into_iter()
            .map(|(name, choice)| {
                let choice = Some(choice);
                (name.to_owned(), InferParameter { choice })
            })
            .collect(),
        inputs: vec![InferInputTensor {
            name: "text_input".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1],
        }],
        raw_input_contents: vec![[&length, text.as_bytes()].concat()],
    }
}

/// Sends a request and collects its responses until the last, `deadline`, or `stop` says so.
pub fn stream_infer(
    port: u16,
    request: ModelInferRequest,
    deadline: Option<Instant>,
    stop: &Stop,
) -> Result<Events, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut events = Events::default();
        let collected = collect(port, request, stop, &mut events);
        match deadline {
            None => collected.await?,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), collected).await {
                Ok(ended) => ended?,
                // The stream is dropped with its future, which cancels the request.
                Err(_) => events.cancelled = true,
            },
        }
        Ok(events)
    })
}

async fn collect(
    port: u16,
    request: ModelInferRequest,
    stop: &Stop<'_>,
    events: &mut Events,
) -> Result<(), Failure> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(1 << 26);
    client.ready().await?;
    let codec = tonic_prost::ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let path = PathAndQuery::from_static(STREAM_INFER);
    let requests = tonic::Request::new(tokio_stream::once(request));
    let mut responses = client.streaming(requests, path, codec).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let now = Instant::now();
        if !response.error_message.is_empty() {
            return Err(response.error_message.into());
        }
        let outputs = response
            .infer_response
            .map(|inner| inner.raw_output_contents);
        for output in outputs.unwrap_or_default() {
            let text = String::from_utf8_lossy(output.get(4..).unwrap_or_default());
            events.list.push((now, text.into_owned()));
        }
        if stop(events.list.len()) {
            break;
        }
    }
    Ok(())
}
