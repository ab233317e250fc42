//! Returns freed memory to the system.

use std::hint::black_box;

/// Makes the allocator return all free pages.
///
/// mimalloc purges freed pages only when it is called: an idle process would keep the
/// pages of its last load, and two large buffers in sequence could coexist. Before it
/// fails an allocation, mimalloc collects and purges everything. An impossible
/// allocation is the only way to ask for that without `unsafe`.
pub fn give_back() {
    let mut nothing = Vec::<u8>::new();
    let impossible = black_box(isize::MAX as usize / 2);
    let _ = black_box(black_box(&mut nothing).try_reserve_exact(impossible));
}

/// Reserves room for `more` bytes at the end of a buffer, exactly: untouched pages cost
/// nothing, while doubling a buffer would need its memory twice.
pub fn reserve(out: &mut Vec<u8>, more: usize) {
    if more > out.capacity() - out.len() {
        give_back();
        out.reserve_exact(more);
    }
}
