//! [`Inference`]: the calls of `glm.v1.Inference`.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::bridge::{Bridge, deadline};
use super::convert;
use super::proto::inference_server::Inference as Calls;
use super::proto::{
    DetokenizeRequest, DetokenizeResponse, EmbedRequest, EmbedResponse, GenerateEvent,
    GenerateRequest, GenerateResponse, TokenizeRequest, TokenizeResponse,
};

/// Events that are read before their client takes them: most answers as a whole, so that their places are free as soon as they are there.
const AHEAD: usize = 4096;
/// How long a client may take nothing when so much waits for it. Of what it reads one hears only when there is room again in its window,
/// as a rule after 16 to 32 KiB: for one that takes a few words per second these are minutes.
const READ_PATIENCE: Duration = Duration::from_secs(600);

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
        Ok(answer.map(|answer| convert::generated(&answer)))
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
        let convert = move |event| {
            let events = match event {
                Ok(event) => finish.events(&event).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(events)
        };
        Ok(events.map(|events| -> Events {
            let events = events.flat_map(convert);
            match until {
                Some(until) => Box::pin(taken_in_time(ended_at(events, until), READ_PATIENCE)),
                None => Box::pin(taken_in_time(events, READ_PATIENCE)),
            }
        }))
    }

    async fn embed(
        &self,
        request: Request<EmbedRequest>,
    ) -> Result<Response<EmbedResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::embed(request);
        let answer = self.0.ask(&metadata, "/v1/embeddings", body).await?;
        Ok(answer.map(|answer| convert::embedded(&answer)))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::tokenize(request)?;
        let answer = self.0.ask(&metadata, "/tokenize", body).await?;
        Ok(answer.map(|answer| convert::tokenized(&answer)))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let body = convert::detokenize(request);
        let answer = self.0.ask(&metadata, "/detokenize", body).await?;
        Ok(answer.map(|answer| convert::detokenized(&answer)))
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

/// The events, read ahead, until their client has taken none for so long; that is an error and the end. Over HTTP/2 a connection
/// goes on although nobody reads one of its streams.
fn taken_in_time(
    events: impl Stream<Item = Result<GenerateEvent, Status>> + Send + 'static,
    patience: Duration,
) -> impl Stream<Item = Result<GenerateEvent, Status>> + Send {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            let is_last = event.is_none();
            if sender.send_timeout(event, patience).await.is_err() || is_last {
                return;
            }
        }
    });
    stream::unfold(Some(receiver), move |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(event) => Some((event?, Some(receiver))),
            None => {
                let message = format!("nothing of the answer was read for {patience:?}");
                Some((Err(Status::deadline_exceeded(message)), None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_ends() {
        let (patience, held) = (Duration::from_secs(9), Arc::new(()));
        let holder = Arc::clone(&held);
        let events = stream::repeat_with(move || {
            let _ = &holder;
            Ok(GenerateEvent::default())
        });
        let mut events = Box::pin(taken_in_time(events, patience));
        // As long as something is read now and then, it goes on.
        for _ in 0..2 * AHEAD {
            tokio::time::sleep(patience / 2).await;
            assert!(events.next().await.unwrap().is_ok());
        }
        tokio::time::sleep(2 * patience).await;
        assert_eq!(Arc::strong_count(&held), 1, "the answer goes on");
        let rest: Vec<_> = events.collect().await;
        let (last, read_ahead) = rest.split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().code(), Code::DeadlineExceeded);
        assert!(read_ahead.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_its_whole_answer() {
        const EVENTS: usize = 3000;
        let held = Arc::new(());
        let holder = Arc::clone(&held);
        let events = stream::iter(0..EVENTS).map(move |_| {
            let _ = &holder;
            Ok(GenerateEvent::default())
        });
        let events = taken_in_time(events, READ_PATIENCE);
        // At three events a second, half a window of 64 KiB takes minutes, and nothing is heard of it before.
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(Arc::strong_count(&held), 1, "the answer is still asked for");
        let events: Vec<_> = events.collect().await;
        assert!(events.len() == EVENTS && events.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_stream_is_not_cut_off() {
        let patience = Duration::from_secs(9);
        let few = stream::iter(vec![Ok(GenerateEvent::default()); 3]);
        let few: Vec<_> = taken_in_time(few, patience).collect().await;
        assert!(few.len() == 3 && few.iter().all(Result::is_ok));
    }
}
