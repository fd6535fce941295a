# The app with the embedded model's engine, on the CPU; with `--gpus all` it finds the GPU.
#   docker build -t marco . && docker run --rm -p 7860:7860 -v marco:/data marco
FROM python:3.11-slim

RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 marco && mkdir /data && chown marco /data

WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

USER marco
# Models and runs live outside the image, so that a new image keeps them.
ENV MARCO_CACHE=/data/models MARCO_RUNS=/data/runs MARCO_LOG=json
VOLUME /data
EXPOSE 7860
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health')"]
# Outside a container this listens on 127.0.0.1; inside, the published port decides who comes in.
CMD ["python", "app.py", "--host", "0.0.0.0", "--port", "7860"]
