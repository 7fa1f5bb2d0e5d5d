// placeholder
#include "threads.h"
extern "C" int pcf_nothing() { return 0; }
