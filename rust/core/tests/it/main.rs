//! The data plane between real sockets: what clients, engines and the control plane notice of it.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod ahead;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod backpressure;
#[cfg(test)]
mod bodies;
#[cfg(test)]
mod books;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod cold;
#[cfg(test)]
mod departures;
#[cfg(test)]
mod encodings;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod heartbeats;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod management;
#[cfg(test)]
mod media;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod repairs;
#[cfg(test)]
mod retire;
#[cfg(test)]
mod scores;
#[cfg(test)]
mod slots;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod times;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod translated;
#[cfg(test)]
mod whole;
