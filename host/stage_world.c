/* The synthetic world's files, made anew for an experiment with data.synth. */
#include "stage.h"
#include "world.h"

Status stage_world(const StageContext *context) {
  return world_write(&context->experiment->data.world, context->folder);
}
