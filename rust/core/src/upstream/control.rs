//! One HTTP/1.1 connection to the control plane, whose requests may be streams: hyper's client.
//!
//! hyper splits a client connection into a handle and a future that moves the bytes. The future is polled by whoever
//! waits for the answer, in the same task.

use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::socket;

/// hyper's default of 408 KiB per connection is far more than an answer's head or a burst of log lines needs.
const BUFFER: usize = 64 * 1024;

/// A request could not be sent, or its answer's head did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

type Driver<B> = http1::Connection<TokioIo<UnixStream>, B>;

/// A connection, with the future that drives it.
#[derive(Debug)]
pub(crate) struct ControlConnection<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// `None` once the connection is closed.
    driver: Option<Pin<Box<Driver<B>>>>,
}

impl<B> ControlConnection<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(crate) async fn open(path: &Path) -> Result<Self, ControlError> {
        let stream = UnixStream::from_std(socket::connect(path).await?)?;
        let (sender, driver) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)) })
    }

    /// Send a request and wait for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, ControlError> {
        std::future::poll_fn(|context| {
            self.drive(context);
            self.sender.poll_ready(context)
        })
        .await?;
        let mut response = pin!(self.sender.send_request(request));
        let response = std::future::poll_fn(|context| {
            if let Poll::Ready(done) = response.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            drive(&mut self.driver, context);
            response.as_mut().poll(context)
        })
        .await?;
        Ok(response)
    }

    /// Move bytes in both directions as far as they go.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        drive(&mut self.driver, context);
    }
}

fn drive<B>(driver: &mut Option<Pin<Box<Driver<B>>>>, context: &mut Context<'_>)
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    if let Some(future) = driver
        && future.as_mut().poll(context).is_ready()
    {
        // Errors reach the one who waits through the response or its body.
        *driver = None;
    }
}
