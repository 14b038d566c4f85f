//! Bodies of responses that wait for slow clients. They are sent in pieces and use little memory while they wait: long bodies are held
//! compressed and are decompressed piece by piece, and clients of the same body share it.

use std::io::{self, Cursor, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use flate2::bufread::GzDecoder;
use http_body::{Frame, SizeHint};

/// Bytes that are passed to a connection at once.
const PIECE: usize = 32 * 1024;

/// A body that any number of clients can share.
#[derive(Debug, Clone)]
pub(super) enum Prepared {
    /// As it is sent.
    Plain(Bytes),
    /// Compressed with gzip and sent uncompressed; the number is the uncompressed length in bytes.
    Packed(Bytes, usize),
}

/// A body that is being sent to one client. It holds a value, such as a permit, until it is dropped.
pub(super) struct ChunkedBody<H> {
    rest: Rest,
    left: usize,
    _held: H,
}

enum Rest {
    Plain(Bytes),
    Packed(Box<GzDecoder<Cursor<Bytes>>>),
}

impl<H> ChunkedBody<H> {
    pub(super) fn new(body: Prepared, held: H) -> Self {
        match body {
            Prepared::Plain(bytes) => Self { left: bytes.len(), rest: Rest::Plain(bytes), _held: held },
            Prepared::Packed(bytes, length) => Self {
                left: length,
                rest: Rest::Packed(Box::new(GzDecoder::new(Cursor::new(bytes)))),
                _held: held,
            },
        }
    }

    /// A copy of the next bytes: a slice would keep the whole body in memory after its last piece is sent.
    fn next(&mut self) -> io::Result<Bytes> {
        let size = self.left.min(PIECE);
        let piece = match &mut self.rest {
            Rest::Plain(bytes) => Bytes::copy_from_slice(&bytes.split_to(size)),
            Rest::Packed(decoder) => {
                let mut piece = vec![0; size];
                decoder.read_exact(&mut piece)?;
                piece.into()
            }
        };
        self.left -= size;
        Ok(piece)
    }
}

impl<H: Unpin> HttpBody for ChunkedBody<H> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.next();
        if piece.is_err() {
            self.left = 0;
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_body_arrives_completely() {
        let text: String = (0..30_000).map(|number| format!("{number}\n")).collect();
        let packed = super::super::compression::compress(&text).expect("compressed");
        assert!(packed.len() < text.len() / 2);
        for body in
            [Prepared::Plain(text.clone().into()), Prepared::Packed(packed.clone().into(), text.len())]
        {
            let whole = axum::body::to_bytes(axum::body::Body::new(ChunkedBody::new(body, ())), usize::MAX)
                .await
                .expect("a body");
            assert!(whole == text.as_bytes());
        }
        let damaged = Prepared::Packed(packed[..100].to_vec().into(), text.len());
        assert!(
            axum::body::to_bytes(axum::body::Body::new(ChunkedBody::new(damaged, ())), usize::MAX)
                .await
                .is_err(),
            "a truncated body is an error"
        );
        let empty = ChunkedBody::new(Prepared::Plain(Bytes::new()), ());
        assert!(empty.is_end_stream());
    }
}
