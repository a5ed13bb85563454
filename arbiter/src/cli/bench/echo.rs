//! `bench echo`: what nothing over a broker can be faster than.
//!
//! A message goes to a queue of the kind that requests go to, is delivered, and is answered to the sender's own queue:
//! published and confirmed as the arbiter and its clients do it, with nothing decided and nothing logged. Both sides run
//! here, each on a connection of its own.

use super::{LATENCY_MAX, for_people_us, histogram, together};
use crate::cli::output::Failure;
use crate::cli::{Global, Outcome};
use arbiterq::transport::rabbitmq::{BrokerError, BrokerUrl};
use arbiterq_client::broker::{Message, Publisher};
use arbiterq_client::wire::Nonce;
use arbiterq_client::wire::rabbitmq::reply_queue;
use futures_util::StreamExt;
use hdrhistogram::Histogram;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// `bench echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Echo {
    /// Messages that are under way at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    in_flight: u32,
    /// For how long
    #[arg(long = "for", value_name = "DUR", value_parser = super::duration, default_value = "5s")]
    time: Duration,
}

/// As the arbiter's own.
const PREFETCH: u16 = 1000;
/// As long as a usual request.
const BODY_BYTES: usize = 200;

impl Echo {
    pub(super) fn run(self, global: &Global) -> Outcome {
        let help = "an echo is measured at a broker: --url amqp://user:password@host:port";
        let url = global.broker(global.url(), help)?;
        let (times, elapsed) = together(self.measure(&url))?;
        let per_s = times.len() as f64 / elapsed.as_secs_f64();
        let (p50, p99) = (times.value_at_quantile(0.5), times.value_at_quantile(0.99));
        let object = json!({
            "in_flight": self.in_flight,
            "echoes": times.len(),
            "per_s": (per_s * 10.0).round() / 10.0,
            "p50_us": p50,
            "p99_us": p99,
            "max_us": times.max(),
        });
        let text = format!(
            "{per_s:.0} echoes a second with {} in flight; half of them within {}, 99 % within {}",
            self.in_flight,
            for_people_us(p50),
            for_people_us(p99),
        );
        global.output().result(&text, &object)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn measure(&self, url: &BrokerUrl) -> Result<(Histogram<u64>, Duration), Failure> {
        let (server, client) =
            (url.connect("arbiter bench echo").await?, url.connect("arbiter bench echo").await?);
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        let unique = Nonce(bytes).to_string();
        let queue = format!("arbiter.echo.{unique}");
        let answering = answer(&server, &queue).await?;
        let measured = self.echo(&client, url.user(), &queue, &reply_queue(url.user(), &unique)).await;
        answering.abort();
        let channel = BrokerError::limited(client.create_channel()).await?;
        BrokerError::limited(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await?;
        Ok(measured?)
    }

    async fn echo(
        &self,
        connection: &Connection,
        user: &str,
        queue: &str,
        own: &str,
    ) -> Result<(Histogram<u64>, Duration), BrokerError> {
        let channel = BrokerError::limited(connection.create_channel()).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        BrokerError::limited(channel.queue_declare(own.into(), options, FieldTable::default())).await?;
        let mut echoes = consume(&channel, own, true).await?;
        let mut publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
        let (began, mut times) = (Instant::now(), histogram());
        let mut sent = vec![began; self.in_flight as usize];
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_user_id(user.into())
            .with_reply_to(own.into());
        let send = |publisher: &mut Publisher, sent: &mut Instant, number: usize| {
            *sent = Instant::now();
            let properties = properties.clone().with_message_id(number.to_string().into());
            let body = vec![b'x'; BODY_BYTES];
            publisher.publish(Message { exchange: "", key: queue, mandatory: true, body, properties });
        };
        for (number, sent) in sent.iter_mut().enumerate() {
            send(&mut publisher, sent, number);
        }
        while began.elapsed() < self.time {
            tokio::select! {
                published = publisher.next() => drop(published?),
                echo = echoes.next() => {
                    let echo = echo.ok_or_else(|| BrokerError::Cancelled { queue: own.to_owned() })??;
                    let number = echo.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
                    let number: usize = number.unwrap_or(0);
                    if let Some(sent) = sent.get_mut(number) {
                        let took = u64::try_from(sent.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
                        times.saturating_record(took);
                        send(&mut publisher, sent, number);
                    }
                }
            }
        }
        Ok((times, began.elapsed()))
    }
}

async fn consume(channel: &Channel, queue: &str, no_ack: bool) -> Result<Consumer, BrokerError> {
    let options = BasicConsumeOptions { no_ack, ..Default::default() };
    let consumed = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    BrokerError::limited(consumed).await
}

/// Answers whatever comes to a queue, which is declared here, of the kind of the request queues.
async fn answer(
    connection: &Connection,
    queue: &str,
) -> Result<JoinHandle<Result<(), BrokerError>>, BrokerError> {
    let channel = BrokerError::limited(connection.create_channel()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let declared = channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments);
    BrokerError::limited(declared).await?;
    BrokerError::limited(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
    let mut messages = consume(&channel, queue, false).await?;
    let mut publisher = Publisher::on(BrokerError::limited(connection.create_channel()).await?).await?;
    Ok(tokio::spawn(async move {
        let mut tags = std::collections::VecDeque::new();
        loop {
            tokio::select! {
                published = publisher.next() => {
                    drop(published?);
                    if let Some(tag) = tags.pop_front() {
                        BrokerError::limited(channel.basic_ack(tag, BasicAckOptions::default())).await?;
                    }
                }
                message = messages.next() => {
                    let Some(message) = message else { return Ok(()) };
                    let message = message?;
                    let to = message.properties.reply_to().as_ref().map_or("", ShortString::as_str).to_owned();
                    let id = message.properties.message_id().clone().unwrap_or_default();
                    let properties = BasicProperties::default().with_message_id(id);
                    let body = message.data;
                    publisher.publish(Message { exchange: "", key: &to, mandatory: true, body, properties });
                    tags.push_back(message.delivery_tag);
                }
            }
        }
    }))
}
