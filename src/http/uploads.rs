//! How much of the server's memory uploads may take together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiError, Code};

/// Bodies of the largest size that may be in memory at once.
const BODIES: u64 = 2;
/// Uploads that may wait for room.
const MOST_WAITING: usize = 64;
/// Long enough for a body of usual size to come in over a usual line; after it the client may as well try again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of one permit: a semaphore counts no further than 2^32.
const UNIT: u64 = 1024;

/// The memory of all uploads in flight: bodies of `2 x limits.body_bytes`, and beside them one upload that is being put
/// together or unpacked, at most `limits.body_bytes` more.
pub struct Uploads {
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    largest: u64,
}

/// The right to hold so many bytes, until dropped.
#[derive(Debug)]
pub struct Admission {
    _room: OwnedSemaphorePermit,
}

/// The right to hold them twice for a while, until dropped.
#[derive(Debug)]
pub struct Turn {
    _turn: OwnedSemaphorePermit,
}

impl Uploads {
    /// For bodies of at most `largest` bytes.
    pub fn new(largest: u64) -> Self {
        let permits = usize::try_from(BODIES * u64::from(units(largest))).unwrap_or(usize::MAX);
        Self {
            room: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            turn: Arc::new(Semaphore::new(1)),
            largest,
        }
    }

    /// Waits for room for an upload of so many bytes; `None` is a client that does not say, and may send the most.
    /// 413 over the limit, 429 when too many wait or the wait is long.
    pub async fn admit(&self, bytes: Option<u64>) -> Result<Admission, ApiError> {
        let bytes = bytes.unwrap_or(self.largest);
        if bytes > self.largest {
            let message =
                format!("an upload may hold at most {} bytes (limits.body_bytes), given {bytes}", self.largest);
            return Err(ApiError::new(Code::TooLarge, message));
        }
        let units = units(bytes);
        let room = match self.room.clone().try_acquire_many_owned(units) {
            Ok(room) => room,
            Err(_) => {
                let _waiting = self.waiting.try_acquire().map_err(|_| {
                    let message = format!("{MOST_WAITING} uploads wait for memory already, which is the limit");
                    ApiError::new(Code::Overloaded, message)
                })?;
                let room = tokio::time::timeout(LONGEST_WAIT, self.room.clone().acquire_many_owned(units)).await;
                let room = room.map_err(|_| {
                    let message = format!(
                        "other uploads have held the server's memory for {} seconds (together they may take {BODIES} x limits.body_bytes)",
                        LONGEST_WAIT.as_secs()
                    );
                    ApiError::new(Code::Overloaded, message)
                })?;
                room.map_err(ApiError::internal)?
            }
        };
        Ok(Admission { _room: room })
    }

    /// Waits until no other upload is put together or unpacked.
    pub async fn turn(&self) -> Result<Turn, ApiError> {
        let turn = self.turn.clone().acquire_owned().await.map_err(ApiError::internal)?;
        Ok(Turn { _turn: turn })
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Code, MOST_WAITING, Uploads};

    #[tokio::test]
    async fn uploads_wait_for_one_another_and_too_many_are_turned_away() {
        let uploads = Arc::new(Uploads::new(10_000));
        let first = uploads.admit(Some(10_000)).await.unwrap();
        let _second = uploads.admit(None).await.unwrap();
        let waiting: Vec<_> = (0..MOST_WAITING)
            .map(|_| {
                let uploads = uploads.clone();
                tokio::spawn(async move { uploads.admit(Some(5_000)).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        assert_eq!(uploads.admit(Some(5_000)).await.unwrap_err().code, Code::Overloaded);
        drop(first);
        for task in waiting {
            task.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_over_the_limit_is_refused_with_both_numbers() {
        let error = Uploads::new(4096).admit(Some(4097)).await.unwrap_err();
        assert_eq!(error.code, Code::TooLarge);
        assert!(error.message.contains("4096") && error.message.contains("4097"), "{}", error.message);
    }
}
