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
