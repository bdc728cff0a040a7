/* The stand-alone board support declares everything in one header. SPDX-License-Identifier: Apache-2.0 */
#include "mxc.h"
