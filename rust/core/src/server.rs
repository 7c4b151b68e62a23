//! One thread's accept loop, its HTTP/1.1 connections, and how they end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::handler;
use crate::listen::Listeners;
use crate::stall::Stall;
use crate::ticket::Cancels;
use crate::worker::{Door, Worker};

/// hyper's default of 408 KiB a connection is far more than a request head needs; bodies pass through in pieces.
const BUFFER: usize = 64 * 1024;

/// How often idle engine connections are looked at. The engine closes them after 5 s, we after 4 s.
const SWEEP: Duration = Duration::from_millis(500);

/// After this long a failed `accept` (no file descriptors left, say) is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the threads are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Serve.
    Run,
    /// Take nothing new, end what is in flight, within this time.
    Drain(Duration),
}

/// What one thread is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) cancels: Cancels,
}

/// Serve until told to stop. Returns whether every request ended by itself.
pub(crate) async fn run(
    worker: Rc<Worker>,
    listeners: Listeners,
    Told { mut orders, mut cancels }: Told,
) -> io::Result<bool> {
    let tcp = listeners.tcp.map(TcpListener::from_std).transpose()?;
    let unix = listeners.unix.map(UnixListener::from_std).transpose()?;
    let draining = Rc::new(Notify::new());
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let grace = loop {
        tokio::select! {
            accepted = accept_tcp(tcp.as_ref()) => match accepted {
                Ok(stream) => {
                    connections.spawn_local(serve(Rc::clone(&worker), Door::Tcp, stream, Rc::clone(&draining)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => {
                    connections.spawn_local(serve(Rc::clone(&worker), Door::Unix, stream, Rc::clone(&draining)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            Some(order) = cancels.recv() => worker.tickets.cancel(order),
            _ = sweep.tick() => worker.pool.sweep(),
            order = orders.wait_for(|order| *order != Order::Run) => match order.as_deref() {
                Ok(Order::Drain(grace)) => break *grace,
                // The one who gives orders is gone: nobody will ever stop us otherwise.
                _ => break Duration::ZERO,
            },
        }
    };
    drop((tcp, unix));
    worker.drain();
    draining.notify_waiters();
    let drained =
        tokio::time::timeout(grace, async { while connections.join_next().await.is_some() {} })
            .await;
    connections.shutdown().await;
    Ok(drained.is_ok())
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn serve<S>(worker: Rc<Worker>, door: Door, stream: S, draining: Rc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = worker.counters.connection();
    let write_timeout = worker.shared.config.write_timeout;
    let service = {
        let worker = Rc::clone(&worker);
        service_fn(move |request| {
            let worker = Rc::clone(&worker);
            async move { Ok::<_, Infallible>(handler::handle(worker, door, request).await) }
        })
    };
    // Before the connection, so that it is dropped after it: whatever the connection held is booked in between.
    let giving_up = worker.giving_up();
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(worker.shared.config.header_timeout)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Stall::new(stream, write_timeout)), service)
    );
    let mut drain = pin!(draining.notified());
    let told = Cell::new(false);
    // Registers for the notification even if the connection is busy from the start.
    drain.as_mut().enable();
    let ended = poll_fn(|context| {
        if !told.get() && (worker.draining() || drain.as_mut().poll(context).is_ready()) {
            told.set(true);
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    })
    .await;
    // A connection that fails has no one left to tell.
    giving_up.set(ended.is_err_and(|error| is_stall(&error)));
}

/// Whether a connection failed because its client took nothing for too long.
fn is_stall(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let source = source.and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}
