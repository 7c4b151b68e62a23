//! One HTTP/1.1 connection to an engine or to the control plane.
//!
//! hyper splits a client connection into a handle and a future that moves the bytes. The future is polled by whoever
//! waits for the answer, in the same task: no spawned task, so no wake-up between threads or tasks for each event.

use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::config::{UPSTREAM_IDLE, UPSTREAM_USES};

/// hyper's default of 408 KiB per connection is far more than an answer's head or a burst of events needs.
const BUFFER: usize = 64 * 1024;

/// A full accept queue makes `connect` on a Unix socket fail at once instead of waiting; so we wait, this often at most.
const CONNECT_TRIES: u32 = 12;

/// A request could not be sent, or its answer's head did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

impl SendError {
    /// Whether the engine certainly did not get the whole request: nobody listens, or it ended with bytes unread.
    ///
    /// A Unix socket says so exactly: a peer that closes with bytes unread, or before it accepted, causes `ECONNRESET`, and
    /// writing to one that has closed causes `EPIPE`. One that had read all it was sent causes an end of file.
    pub(crate) fn is_unread(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Http(error) => {
                std::iter::successors(Some(error as &dyn Error), |&error| error.source())
                    .filter_map(|error| error.downcast_ref::<io::Error>())
                    .any(|error| {
                        matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                        )
                    })
            }
        }
    }
}

type Driver<B> = http1::Connection<TokioIo<UnixStream>, B>;

/// A connection, with the future that drives it.
#[derive(Debug)]
pub(crate) struct Connection<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// `None` once the connection is closed.
    driver: Option<Pin<Box<Driver<B>>>>,
    served: u32,
    idle_since: Instant,
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(crate) async fn open(path: &Path) -> Result<Self, SendError> {
        let stream = connect(path).await?;
        let (sender, driver) =
            http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), served: 0, idle_since: Instant::now() })
    }

    /// Send a request and wait for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, SendError> {
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
        self.served += 1;
        Ok(response)
    }

    /// Move bytes in both directions as far as they go.
    pub(crate) fn drive(&mut self, context: &mut Context<'_>) {
        drive(&mut self.driver, context);
    }

    /// Whether it may still carry a request: not closed, not about to be.
    pub(crate) fn is_reusable(&mut self) -> bool {
        if self.served >= UPSTREAM_USES || self.idle_since.elapsed() >= UPSTREAM_IDLE {
            return false;
        }
        // One poll reads an end-of-file that has arrived, and tells hyper that the last answer was taken.
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && !self.sender.is_closed()
    }

    /// Note that it is idle from now on.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    pub(crate) fn expired(&self) -> bool {
        self.idle_since.elapsed() >= UPSTREAM_IDLE
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

async fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    for _ in 1..CONNECT_TRIES {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
            other => return other,
        }
    }
    UnixStream::connect(path).await
}
