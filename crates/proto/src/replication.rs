//! Messages between the members of one placement group.
