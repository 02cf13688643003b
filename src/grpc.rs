//! The gRPC server: WorkerService, health and reflection.
