//! What the engine answers to a request, known to the byte at both ends.
//!
//! Every answer carries the request's seed and every event its number, so that a byte that is lost,
//! repeated, reordered or taken from another stream is seen.

use memchr::memmem;

/// Seeds have eight digits, so that all requests and all answers of one kind are of one length.
pub(crate) const SEEDS: std::ops::RangeInclusive<u32> = 10_000_000..=99_999_999;

pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";

/// The text of one answer.
pub(crate) struct Transcript {
    seed: u32,
    tokens: u32,
    /// A delta event whose number is patched in place: making one must cost next to nothing.
    delta: Vec<u8>,
    number_at: usize,
}

const NUMBER_DIGITS: usize = 8;

impl Transcript {
    /// An answer of `tokens` tokens, which are as many delta events if it is streamed.
    pub(crate) fn new(seed: u32, tokens: u32) -> Self {
        let before = format!(
            "data: {{\"choices\":[{{\"finish_reason\":null,\"index\":0,\"delta\":{{\"content\":\" {seed}-"
        );
        let number_at = before.len();
        let after = format!("00000000 \"}}}}],{}}}\n\n", Self::tail(seed));
        Self { seed, tokens, delta: [before, after].concat().into_bytes(), number_at }
    }

    fn tail(seed: u32) -> String {
        format!(
            "\"created\":1767225600,\"id\":\"chatcmpl-{seed}-Jq0bT4vXoW2sLzRk\",\"model\":\"bench\",\
             \"system_fingerprint\":\"b11434-0123456\",\"object\":\"chat.completion.chunk\""
        )
    }

    /// The first event. llama-server sends it in one chunk with the first delta.
    pub(crate) fn role(&self) -> Vec<u8> {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":null,\"index\":0,\"delta\":\
             {{\"role\":\"assistant\",\"content\":null}}}}],{}}}\n\n",
            Self::tail(self.seed)
        )
        .into_bytes()
    }

    /// The event of one token, about 250 bytes.
    pub(crate) fn delta(&mut self, number: u32) -> &[u8] {
        let digits = &mut self.delta[self.number_at..self.number_at + NUMBER_DIGITS];
        write_digits(digits, number);
        &self.delta
    }

    /// The last event before `[DONE]`, with the engine's own count of tokens.
    pub(crate) fn finish(&self) -> Vec<u8> {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{{}}}}],{},\
             \"timings\":{}}}\n\n",
            Self::tail(self.seed),
            self.timings()
        )
        .into_bytes()
    }

    /// The event that a client gets who asked for `stream_options.include_usage`.
    pub(crate) fn usage(&self) -> Vec<u8> {
        format!("data: {{\"choices\":[],{},{}}}\n\n", Self::tail(self.seed), self.counts())
            .into_bytes()
    }

    /// The whole answer to a request that did not ask for a stream.
    pub(crate) fn json(&self) -> Vec<u8> {
        format!(
            "{{\"choices\":[{{\"finish_reason\":\"stop\",\"index\":0,\"message\":\
             {{\"role\":\"assistant\",\"content\":\"{}\"}}}}],\"model\":\"bench\",\
             \"object\":\"chat.completion\",{},\"timings\":{}}}",
            answer(self.seed),
            self.counts(),
            self.timings()
        )
        .into_bytes()
    }

    /// An event, as somebody else wrote it, has the text of the token of this number.
    pub(crate) fn has_token(&self, number: u32, event: &[u8]) -> bool {
        let text = format!(" {}-{number:08} ", self.seed);
        memmem::find(event, text.as_bytes()).is_some()
    }

    fn counts(&self) -> String {
        format!(
            "\"usage\":{{\"completion_tokens\":{},\"prompt_tokens\":12,\"total_tokens\":{}}}",
            self.tokens,
            self.tokens + 12
        )
    }

    fn timings(&self) -> String {
        format!(
            "{{\"cache_n\":4,\"prompt_n\":8,\"prompt_ms\":4.2,\"predicted_n\":{},\
             \"predicted_ms\":640.0}}",
            self.tokens
        )
    }
}

/// An answer of `/v1/embeddings` that is `length` bytes long, and its seed is in every number of it;
/// never shorter than one with a single number, which is 111 bytes.
pub(crate) fn embeddings(seed: u32, length: usize) -> Vec<u8> {
    const HEAD: &[u8] =
        b"{\"object\":\"list\",\"data\":[{\"object\":\"embedding\",\"index\":0,\"embedding\":[";
    const TAIL: &[u8] =
        b"]}],\"model\":\"bench\",\"usage\":{\"prompt_tokens\":12,\"total_tokens\":12}";
    // A sign or a space, `0.`, eight digits and a comma, which the last one has not.
    const NUMBER: usize = 12;
    let room = length.saturating_sub(HEAD.len() + TAIL.len() + 1);
    let numbers = ((room + 1) / NUMBER).max(1);
    let mut bytes = Vec::with_capacity(length.max(HEAD.len() + TAIL.len() + NUMBER));
    bytes.extend_from_slice(HEAD);
    for index in 0..numbers {
        let mut number = *b" 0.00000000,";
        number[0] = if index % 2 == 0 { b' ' } else { b'-' };
        // Another number at each place, so that a piece that is repeated or lost is seen.
        let value = (u64::from(seed) + index as u64 * 7919) % 100_000_000;
        write_digits(&mut number[3..11], value as u32);
        bytes.extend_from_slice(&number);
    }
    bytes.pop();
    bytes.extend_from_slice(TAIL);
    bytes.resize(bytes.len().max(length.saturating_sub(1)), b' ');
    bytes.push(b'}');
    bytes
}

fn answer(seed: u32) -> String {
    format!("An answer without a stream, number {seed}.")
}

/// A whole answer, as somebody else wrote it, has the text that belongs to `seed`.
pub(crate) fn has_answer(body: &[u8], seed: u32) -> bool {
    memmem::find(body, answer(seed).as_bytes()).is_some()
}

/// Writes `number` over all of `digits`, with leading zeros.
pub(crate) fn write_digits(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
