//! RabbitMQ through lapin, with a supervisor of our own.
