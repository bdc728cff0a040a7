/* The stand-alone board support declares everything in one header. SPDX-License-Identifier: 0BSD */
#include "mxc.h"
