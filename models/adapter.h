/* Adapters of a frozen decoder. Low-rank ones of its products (LoRA, Hu et al. 2021): B starts at zero, so
 * that training starts from the base model. A prefix (P-tuning v2, Liu et al. 2022): keys and values of every
 * layer that stand before those of each sequence's tokens; they are neither normed nor turned by rope. */
#ifndef POPALM_MODELS_ADAPTER_H
#define POPALM_MODELS_ADAPTER_H

#include "models/decoder.h"

/* The decoder's products, each of which has targets: parts of its output that an adapter may be added to. */
typedef enum Product { PRODUCT_QKV, PRODUCT_PROJ, PRODUCT_UP, PRODUCT_DOWN } Product;

/* Declares the tensors of a layer: layers.<n>.lora.<target>.a and .b, layers.<n>.prefix, which are not
 * frozen. */
void adapter_declare(Decoder *decoder, Arena *arena, int layer);

/* y += the adapters' part, after the product itself. dropout: of their input, or NULL */
void adapter_forward(const Decoder *decoder, int layer, Product product, const LayerActivations *a,
                     const DecoderDropout *dropout, const void *x, void *y, int rows);
/* dx += the adapters' part, after the product's own; gradients of A and B. dlow: scratch [rows, rank] */
void adapter_backward(const Decoder *decoder, int layer, Product product, const LayerActivations *a,
                      const DecoderDropout *dropout, const void *x, const void *dy, void *dx, void *dlow,
                      int rows);
/* Columns of the widest input that has an adapter. */
int adapter_widest(const DecoderConfig *config);

/* Which rows of which weight ("attention.qkv") a target is. */
void adapter_target_rows(const DecoderConfig *config, LoraTarget target, const char **product, int *first,
                         int *rows);
/* Whether the model's adapter adds to the tensor of this name. */
bool adapter_changes(const DecoderConfig *config, const char *tensor);
/* Adds the adapter to the base weights of host tensors (all of the model's, those that change in memory of
 * their own) and takes its own tensors out of the list: W += alpha / rank B A. Returns the new count. */
int adapter_merge(const DecoderConfig *config, Arena *scratch, HostTensor *tensors, int count);

#endif
