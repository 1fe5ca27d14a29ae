# One image for nodes and clients: the program and what a FUSE mount needs.
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake clang && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --package weft-cli

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends fuse3 qemu-utils && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/weft /usr/local/bin/weft
ENTRYPOINT ["weft"]
