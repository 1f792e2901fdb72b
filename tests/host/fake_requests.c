/* The fake's part of Triton's API that requests and responses are read and written with. */
#include "fake.h"

/* ---- request ---- */

TRITONSERVER_Error *TRITONBACKEND_RequestId(TRITONBACKEND_Request *request, const char **id) {
  ENTER(TRITONBACKEND_RequestId, request, KIND_REQUEST);
  *id = request->id;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestParameterCount(TRITONBACKEND_Request *request, uint32_t *count) {
  ENTER(TRITONBACKEND_RequestParameterCount, request, KIND_REQUEST);
  *count = request->n_parameters;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestParameter(TRITONBACKEND_Request *request, const uint32_t index,
                                                   const char **key, TRITONSERVER_ParameterType *type,
                                                   const void **vvalue) {
  ENTER(TRITONBACKEND_RequestParameter, request, KIND_REQUEST);
  if (index >= request->n_parameters) {
    misuse("TRITONBACKEND_RequestParameter: index %u of %u", index, request->n_parameters);
    LEAVE;
  }
  parameter *given = &request->parameters[index];
  *key = given->key;
  *type = given->kind;
  *vvalue = &given->value;
  if (given->kind == TRITONSERVER_PARAMETER_STRING) *vvalue = given->value.text;
  if (!given->has_value) *vvalue = NULL;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestInputCount(TRITONBACKEND_Request *request, uint32_t *count) {
  ENTER(TRITONBACKEND_RequestInputCount, request, KIND_REQUEST);
  *count = request->n_inputs;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestInputByIndex(TRITONBACKEND_Request *request, const uint32_t index,
                                                      TRITONBACKEND_Input **input) {
  ENTER(TRITONBACKEND_RequestInputByIndex, request, KIND_REQUEST);
  if (index >= request->n_inputs) {
    misuse("TRITONBACKEND_RequestInputByIndex: index %u of %u", index, request->n_inputs);
    LEAVE;
  }
  *input = &request->inputs[index];
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t release_flags) {
  pthread_mutex_lock(&lock);
  if (release_flags != TRITONSERVER_REQUEST_RELEASE_ALL) misuse("TRITONBACKEND_RequestRelease: flags %u", release_flags);
  if (is_live("TRITONBACKEND_RequestRelease", request, KIND_REQUEST)) {
    end("TRITONBACKEND_RequestRelease", request, KIND_REQUEST);
    note(request, 'R');
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static uint32_t n_buffers(const TRITONBACKEND_Input *input) {
  return (uint32_t)((input->n_bytes + input->bytes_a_buffer - 1) / input->bytes_a_buffer);
}

TRITONSERVER_Error *TRITONBACKEND_InputProperties(TRITONBACKEND_Input *input, const char **name,
                                                  TRITONSERVER_DataType *datatype, const int64_t **shape,
                                                  uint32_t *dims_count, uint64_t *byte_size,
                                                  uint32_t *buffer_count) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_InputProperties");
  if (due == NULL) {
    *name = input->name;
    *datatype = input->datatype;
    *shape = input->shape;
    *dims_count = 1;
    *byte_size = input->n_bytes;
    *buffer_count = n_buffers(input);
  }
  pthread_mutex_unlock(&lock);
  return due;
}

TRITONSERVER_Error *TRITONBACKEND_InputBuffer(TRITONBACKEND_Input *input, const uint32_t index,
                                              const void **buffer, uint64_t *buffer_byte_size,
                                              TRITONSERVER_MemoryType *memory_type,
                                              int64_t *memory_type_id) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_InputBuffer");
  if (index >= n_buffers(input)) misuse("TRITONBACKEND_InputBuffer: index %u of %u", index, n_buffers(input));
  if (due == NULL) {
    uint64_t start = index * input->bytes_a_buffer;
    uint64_t left = input->n_bytes - start;
    *buffer_byte_size = left < input->bytes_a_buffer ? left : input->bytes_a_buffer;
    /* No CPU may follow a pointer into GPU memory. */
    *buffer = input->memory == TRITONSERVER_MEMORY_GPU ? (void *)0x10 : input->bytes + start;
    *memory_type = input->memory;
    *memory_type_id = 0;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* ---- response ---- */

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryNew(TRITONBACKEND_ResponseFactory **factory,
                                                     TRITONBACKEND_Request *request) {
  ENTER(TRITONBACKEND_ResponseFactoryNew, request, KIND_REQUEST);
  *factory = begin(KIND_FACTORY, sizeof **factory);
  (*factory)->request = request;
  request->n_factories++;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryDelete(TRITONBACKEND_ResponseFactory *factory) {
  pthread_mutex_lock(&lock);
  if (is_live("TRITONBACKEND_ResponseFactoryDelete", factory, KIND_FACTORY)) {
    end("TRITONBACKEND_ResponseFactoryDelete", factory, KIND_FACTORY);
    factory->request->n_factories--;
    note(factory->request, 'D');
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactoryIsCancelled(TRITONBACKEND_ResponseFactory *factory,
                                                             bool *is_cancelled) {
  ENTER(TRITONBACKEND_ResponseFactoryIsCancelled, factory, KIND_FACTORY);
  *is_cancelled = factory->request->cancelled;
  LEAVE;
}

static void take_flags(const char *function, TRITONBACKEND_Request *request, uint32_t flags) {
  if (request->n_finals > 0) misuse("%s: after FINAL", function);
  if ((flags & ~(uint32_t)TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) misuse("%s: flags %u", function, flags);
  if ((flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL) != 0) {
    request->n_finals++;
    note(request, 'F');
  } else {
    note(request, 'c');
  }
}

TRITONSERVER_Error *TRITONBACKEND_ResponseFactorySendFlags(TRITONBACKEND_ResponseFactory *factory,
                                                           const uint32_t send_flags) {
  ENTER(TRITONBACKEND_ResponseFactorySendFlags, factory, KIND_FACTORY);
  take_flags("TRITONBACKEND_ResponseFactorySendFlags", factory->request, send_flags);
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseNewFromFactory(TRITONBACKEND_Response **response,
                                                         TRITONBACKEND_ResponseFactory *factory) {
  ENTER(TRITONBACKEND_ResponseNewFromFactory, factory, KIND_FACTORY);
  *response = begin(KIND_RESPONSE, sizeof **response);
  (*response)->request = factory->request;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response *response,
                                                 TRITONBACKEND_Output **output, const char *name,
                                                 const TRITONSERVER_DataType datatype, const int64_t *shape,
                                                 const uint32_t dims_count) {
  ENTER(TRITONBACKEND_ResponseOutput, response, KIND_RESPONSE);
  if (strcmp(name, "text_output") != 0 || datatype != TRITONSERVER_TYPE_BYTES)
    misuse("TRITONBACKEND_ResponseOutput: output '%s' of type %d", name, (int)datatype);
  for (uint32_t dim = 0; dim < dims_count; dim++)
    if (shape[dim] != 1) misuse("TRITONBACKEND_ResponseOutput: dimension %u is not 1", dim);
  response->has_output = true;
  response->n_dims = dims_count;
  *output = &response->output;
  LEAVE;
}

TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output *output, void **buffer,
                                               const uint64_t buffer_byte_size,
                                               TRITONSERVER_MemoryType *memory_type,
                                               int64_t *memory_type_id) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_OutputBuffer");
  if (due == NULL) {
    output->bytes = allocate(buffer_byte_size);
    output->n_bytes = buffer_byte_size;
    *buffer = gpu_outputs ? (void *)0x10 : output->bytes;
    *memory_type = gpu_outputs ? TRITONSERVER_MEMORY_GPU : TRITONSERVER_MEMORY_CPU;
    *memory_type_id = 0;
  }
  pthread_mutex_unlock(&lock);
  return due;
}

/* As the real one, it takes the response over even where it reports an error. */
TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, const uint32_t send_flags,
                                               TRITONSERVER_Error *error) {
  pthread_mutex_lock(&lock);
  TRITONSERVER_Error *due = fault("TRITONBACKEND_ResponseSend");
  if (is_live("TRITONBACKEND_ResponseSend", response, KIND_RESPONSE)) {
    end("TRITONBACKEND_ResponseSend", response, KIND_RESPONSE);
    TRITONBACKEND_Request *request = response->request;
    if (due == NULL && request->n_responses < MAX_RESPONSES) {
      sent *out = &request->responses[request->n_responses++];
      out->flags = send_flags;
      out->n_dims = response->n_dims;
      out->error = -1;
      if (error != NULL && is_live("TRITONBACKEND_ResponseSend", error, KIND_ERROR)) {
        out->error = (int)error->code;
        out->message = copy(error->text, strlen(error->text));
      }
      const struct TRITONBACKEND_Output *output = &response->output;
      if (response->has_output && error == NULL) {
        uint32_t length = 0;
        if (output->n_bytes >= 4) memcpy(&length, output->bytes, 4);
        if (output->n_bytes != length + (uint64_t)4)
          misuse("TRITONBACKEND_ResponseSend: %llu bytes are not one element",
                 (unsigned long long)output->n_bytes);
        else
          out->text = copy(output->bytes + 4, length);
        out->n_bytes = length;
      }
      take_flags("TRITONBACKEND_ResponseSend", request, send_flags);
    }
    free(response->output.bytes);
    response->output.bytes = NULL;
  }
  pthread_mutex_unlock(&lock);
  return due;
}
