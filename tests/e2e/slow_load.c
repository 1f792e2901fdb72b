/* A backend that does nothing but load slowly: it keeps the thread of the HTTP front end that loads it. */
#include <stddef.h>
#include <unistd.h>

__attribute__((visibility("default"))) void* TRITONBACKEND_ModelInitialize(void* model)
{
  (void)model;
  usleep(1500000);
  return NULL;
}

/* Never called, but Triton wants it. */
__attribute__((visibility("default"))) void* TRITONBACKEND_ModelInstanceExecute(
    void* instance, void** requests, unsigned count)
{
  (void)instance;
  (void)requests;
  (void)count;
  return NULL;
}
