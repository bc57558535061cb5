//! Tests of the reader's buffer, most of them against a plain vector of bytes.

use super::{Chunks, JOINED_KEPT_MAX};

fn content(chunks: &Chunks<Vec<u8>>) -> Vec<u8> {
    chunks.slices().flatten().copied().collect()
}

#[test]
fn a_chunk_that_is_read_whole_is_not_copied() {
    let mut chunks = Chunks::default();
    let sent = vec![1, 2, 3];
    let address = sent.as_ptr();
    assert!(chunks.push(sent).is_none());
    assert_eq!(chunks.take_whole(2), None);
    let got = chunks.take_whole(100).expect("the whole chunk");
    assert_eq!((got.as_ptr(), got.len()), (address, 3));
    assert!(chunks.is_empty());
}

#[test]
fn a_read_of_more_than_the_first_chunk_is_not_the_first_chunk() {
    let mut chunks = Chunks::default();
    chunks.push(vec![1, 2]);
    chunks.push(vec![3]);
    assert_eq!(chunks.take_whole(3), None);
    assert_eq!(chunks.take_whole(2), Some(vec![1, 2]));
    assert_eq!(chunks.take_whole(3), Some(vec![3]));
    assert_eq!(chunks.take_whole(3), None);
}

#[test]
fn a_chunk_that_was_begun_is_not_whole() {
    let mut chunks = Chunks::default();
    chunks.push(vec![1, 2]);
    chunks.consume(1, drop);
    assert_eq!(chunks.take_whole(1), None);
    assert_eq!(content(&chunks), [2]);
}

#[test]
fn every_chunk_comes_back() {
    let mut chunks = Chunks::default();
    let mut back = Vec::new();
    for number in 0..4 {
        chunks.push(vec![number; 10]);
    }
    chunks.consume(15, |chunk| back.push(chunk));
    assert_eq!(back.len(), 1);
    assert_eq!(chunks.contiguous(|chunk| back.push(chunk)).len(), 25);
    assert_eq!(back.len(), 4);
    assert_eq!(chunks.push(vec![9; 10]), Some(vec![9; 10]));
    assert_eq!(chunks.push(Vec::new()), Some(Vec::new()));
    chunks.clear(|_| panic!("nothing is queued"));
    assert!(chunks.is_empty() && chunks.push(vec![1]).is_none());
    chunks.clear(|chunk| back.push(chunk));
    assert_eq!(back.len(), 5);
}

#[test]
fn a_large_joined_piece_is_given_back_to_the_allocator() {
    let mut chunks = Chunks::default();
    chunks.push(vec![0; JOINED_KEPT_MAX]);
    chunks.push(vec![0; JOINED_KEPT_MAX]);
    chunks.contiguous(drop);
    chunks.clear(drop);
    assert_eq!(chunks.joined.capacity(), 0);
}

#[test]
fn random_use_agrees_with_a_vector() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    for _ in 0..200 {
        let (mut chunks, mut model) = (Chunks::default(), Vec::new());
        let mut next = 0_u8;
        for _ in 0..60 {
            match random(5) {
                0 | 1 => {
                    let chunk: Vec<u8> = (0..random(9)).map(|_| next.wrapping_add(1)).collect();
                    next = next.wrapping_add(1);
                    model.extend_from_slice(&chunk);
                    drop(chunks.push(chunk));
                }
                2 => assert_eq!(chunks.contiguous(drop), model),
                3 => {
                    let len = random(12);
                    chunks.consume(len, drop);
                    model.drain(..len.min(model.len()));
                }
                _ => {
                    let len = random(12);
                    if let Some(chunk) = chunks.take_whole(len) {
                        let expected: Vec<u8> = model.drain(..len.min(model.len())).collect();
                        assert_eq!(chunk, expected);
                    }
                }
            }
            assert_eq!(
                (content(&chunks), chunks.len()),
                (model.clone(), model.len())
            );
        }
    }
}
