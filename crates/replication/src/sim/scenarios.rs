//! The executions that broke earlier designs, by name, and what must hold.
