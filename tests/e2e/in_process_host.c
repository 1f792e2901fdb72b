/* A small in-process host, as Triton's Python API is one: the server library
 * is opened RTLD_LOCAL at run time, so its symbols are in nobody's global scope.
 *
 *   in_process_host LIBTRITONSERVER REPOSITORY BACKENDS MODEL TEXT
 *
 * starts a server on the repository, streams one request and prints each
 * response's text_output on a line of its own. Run by test_in_process.py.
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef void Error; /* an opaque object; null is success */

enum { TYPE_BYTES = 13, MEMORY_CPU = 0, FLAG_FINAL = 1 };

static void *library;
static volatile int done;

static void *function(const char *name) {
  void *address = dlsym(library, name);
  if (address == NULL) {
    fprintf(stderr, "no %s: %s\n", name, dlerror());
    exit(1);
  }
  return address;
}

static void check(Error *error) {
  if (error != NULL) {
    const char *(*message)(Error *) = function("TRITONSERVER_ErrorMessage");
    fprintf(stderr, "%s\n", message(error));
    exit(1);
  }
}

/* Calls a function that takes pointers and returns an error. */
#define CALL(name, parameters, ...) \
  check(((Error * (*)parameters) function("TRITONSERVER_" name))(__VA_ARGS__))

static Error *allocate(void *allocator, const char *tensor, size_t size, int type, int64_t id,
                       void *context, void **buffer, void **buffer_context, int *actual_type,
                       int64_t *actual_id) {
  (void)allocator, (void)tensor, (void)type, (void)id, (void)context;
  *buffer = size == 0 ? NULL : malloc(size);
  *buffer_context = NULL;
  *actual_type = MEMORY_CPU;
  *actual_id = 0;
  return NULL;
}

static Error *release_buffer(void *allocator, void *buffer, void *context, size_t size, int type,
                             int64_t id) {
  (void)allocator, (void)context, (void)size, (void)type, (void)id;
  free(buffer);
  return NULL;
}

static void release_request(void *request, uint32_t flags, void *context) {
  (void)flags, (void)context;
  CALL("InferenceRequestDelete", (void *), request);
}

static void take_response(void *response, uint32_t flags, void *context) {
  (void)context;
  if (response != NULL) {
    Error *(*failure)(void *) = function("TRITONSERVER_InferenceResponseError");
    check(failure(response));
    uint32_t n_outputs = 0;
    CALL("InferenceResponseOutputCount", (void *, uint32_t *), response, &n_outputs);
    for (uint32_t index = 0; index < n_outputs; index++) {
      const char *name;
      const int64_t *shape;
      uint64_t n_dims;
      const void *base;
      size_t size;
      int type, memory;
      int64_t id;
      void *buffer_context;
      CALL("InferenceResponseOutput",
           (void *, uint32_t, const char **, int *, const int64_t **, uint64_t *, const void **,
            size_t *, int *, int64_t *, void **),
           response, index, &name, &type, &shape, &n_dims, &base, &size, &memory, &id,
           &buffer_context);
      /* One BYTES element: its length in four bytes, then its text. */
      printf("%.*s\n", (int)(size - 4), (const char *)base + 4);
      fflush(stdout);
    }
    CALL("InferenceResponseDelete", (void *), response);
  }
  if (flags & FLAG_FINAL) {
    done = 1;
  }
}

static void *start_server(const char *repository, const char *backends) {
  void *options = NULL, *server = NULL;
  CALL("ServerOptionsNew", (void **), &options);
  CALL("ServerOptionsSetModelRepositoryPath", (void *, const char *), options, repository);
  CALL("ServerOptionsSetBackendDirectory", (void *, const char *), options, backends);
  CALL("ServerOptionsSetStrictModelConfig", (void *, bool), options, false); /* auto-complete */
  CALL("ServerNew", (void **, void *), &server, options);
  CALL("ServerOptionsDelete", (void *), options);
  return server;
}

static void stream(void *server, void *allocator, const char *model, const char *text) {
  static char element[65536];
  const int64_t shape[1] = {1};
  void *request = NULL;
  uint32_t length = (uint32_t)strlen(text);
  memcpy(element, &length, sizeof length);
  memcpy(element + sizeof length, text, length);

  CALL("InferenceRequestNew", (void **, void *, const char *, int64_t), &request, server, model, -1);
  CALL("InferenceRequestAddInput", (void *, const char *, int, const int64_t *, uint64_t), request,
       "text_input", TYPE_BYTES, shape, 1);
  CALL("InferenceRequestAppendInputData", (void *, const char *, const void *, size_t, int, int64_t),
       request, "text_input", element, length + sizeof length, MEMORY_CPU, 0);
  CALL("InferenceRequestSetIntParameter", (void *, const char *, int64_t), request, "temperature", 0);
  CALL("InferenceRequestSetReleaseCallback", (void *, void (*)(void *, uint32_t, void *), void *),
       request, release_request, NULL);
  CALL("InferenceRequestSetResponseCallback",
       (void *, void *, void *, void (*)(void *, uint32_t, void *), void *), request, allocator, NULL,
       take_response, NULL);
  CALL("ServerInferAsync", (void *, void *, void *), server, request, NULL);
  for (int waited_ms = 0; !done; waited_ms += 10) {
    if (waited_ms > 30000) {
      fprintf(stderr, "no final response after 30 s\n");
      exit(1);
    }
    usleep(10000);
  }
}

int main(int argc, char **argv) {
  if (argc != 6 || strlen(argv[5]) > 60000) {
    fprintf(stderr, "usage: %s LIBTRITONSERVER REPOSITORY BACKENDS MODEL TEXT\n", argv[0]);
    return 2;
  }
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  if (dlsym(RTLD_DEFAULT, "TRITONSERVER_ServerNew") != NULL) {
    fprintf(stderr, "the server's symbols are global: this run would prove nothing\n");
    return 1;
  }
  void *allocator = NULL, *server = start_server(argv[2], argv[3]);
  CALL("ResponseAllocatorNew", (void **, void *, void *, void *), &allocator, (void *)allocate,
       (void *)release_buffer, NULL);
  stream(server, allocator, argv[4], argv[5]);
  CALL("ServerStop", (void *), server);
  CALL("ServerDelete", (void *), server);
  CALL("ResponseAllocatorDelete", (void *), allocator);
  return 0;
}
