//! The tree models by themselves, on data made here and on real data.
