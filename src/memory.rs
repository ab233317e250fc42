//! Memory that was freed, given back to the system.

use std::hint::black_box;

/// Makes the allocator return all that is free.
///
/// It keeps what is freed for a while, and looks at it only when it is called: an
/// idle process would keep what its last load took, and two large buffers after
/// each other could be there at once. Before it says no to a request, mimalloc
/// looks for memory in all that it keeps, and returns it; there is no other way
/// to ask it for that without `unsafe`.
pub fn give_back() {
    let mut nothing = Vec::<u8>::new();
    let impossible = black_box(isize::MAX as usize / 2);
    let _ = black_box(black_box(&mut nothing).try_reserve_exact(impossible));
}

/// Sees to it that `more` bytes fit behind those of a buffer. It grows once, to all
/// that is asked for: memory that is not written is not taken, and a buffer that
/// doubles would be there twice.
pub fn reserve(out: &mut Vec<u8>, more: usize) {
    if more > out.capacity() - out.len() {
        give_back();
        out.reserve_exact(more);
    }
}
