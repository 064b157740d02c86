# The study with all that it needs, at the versions of constraints.txt:
#   docker build -t flowers102 .
#   docker run --rm -it -v "$PWD/runs:/study/runs" flowers102 make study     # or make test; --gpus all, where there are some
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /study
COPY . .
RUN make setup
ENV PATH=/study/.venv/bin:$PATH
CMD ["make", "study"]
