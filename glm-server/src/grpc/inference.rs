//! [`Inference`]: the calls of `glm.v1.Inference`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::bridge::{Bridge, deadline};
use super::convert;
use super::proto::inference_server::Inference as Calls;
use super::proto::{
    DetokenizeRequest, DetokenizeResponse, EmbedRequest, EmbedResponse, GenerateEvent,
    GenerateRequest, GenerateResponse, TokenizeRequest, TokenizeResponse,
};

#[derive(Debug)]
pub(super) struct Inference(Bridge);

impl Inference {
    pub(super) fn new(bridge: Bridge) -> Self {
        Self(bridge)
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<GenerateEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Calls for Inference {
    type GenerateStreamStream = Events;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<GenerateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (path, body) = convert::generate(request, false)?;
        let answer = self.0.ask(&metadata, path, body).await?;
        Ok(Response::new(convert::generated(&answer)))
    }

    async fn generate_stream(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Events>, Status> {
        let (metadata, _, request) = request.into_parts();
        let time = deadline(&metadata.clone().into_headers());
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let (path, body) = convert::generate(request, true)?;
        let events = self.0.ask_for_events(&metadata, path, body).await?;
        let mut finish = convert::Finishing::default();
        let events = events.flat_map(move |event| {
            let events = match event {
                Ok(event) => finish.events(&event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(events)
        });
        Ok(Response::new(match until {
            Some(until) => Box::pin(ended_at(events, until)),
            None => Box::pin(events),
        }))
    }

    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::embed(request);
        let answer = self.0.ask(&metadata, "/v1/embeddings", body).await?;
        Ok(Response::new(convert::embedded(&answer)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::tokenize(request)?;
        let answer = self.0.ask(&metadata, "/tokenize", body).await?;
        Ok(Response::new(convert::tokenized(&answer)))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::detokenize(request);
        let answer = self.0.ask(&metadata, "/detokenize", body).await?;
        Ok(Response::new(convert::detokenized(&answer)))
    }
}

/// The events up to a time; what comes after it is an error and the end.
fn ended_at(
    events: impl Stream<Item = Result<GenerateEvent, Status>> + Send + 'static,
    until: Instant,
) -> impl Stream<Item = Result<GenerateEvent, Status>> + Send {
    let events = Some(Box::pin(events));
    stream::unfold(events, move |events| async move {
        let mut events = events?;
        match tokio::time::timeout_at(until, events.next()).await {
            Ok(event) => Some((event?, Some(events))),
            Err(_) => Some((
                Err(Status::deadline_exceeded(
                    "the deadline of the call is over",
                )),
                None,
            )),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline() {
        let first = stream::iter([Ok(GenerateEvent::default())]);
        let until = Instant::now() + Duration::from_secs(1);
        let events = ended_at(first.chain(stream::pending()), until);
        let events: Vec<_> = events
            .map(|event| event.map_err(|e| e.code()))
            .collect()
            .await;
        assert_eq!(
            events,
            [Ok(GenerateEvent::default()), Err(Code::DeadlineExceeded)]
        );
        let events = ended_at(stream::iter([Ok(GenerateEvent::default())]), until);
        assert_eq!(events.count().await, 1);
    }
}
