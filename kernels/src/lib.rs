//! The hot arithmetic of the worker: one public function an operation.
