/*
 * model.h - the model level: open a checkpoint, plan, quantize, evaluate.
 *
 * A model is a Hugging Face folder, a GGUF file or a native folder. Nothing is
 * ever written to a source; outputs appear whole or not at all.
 */
#ifndef QUANT_MODEL_H
#define QUANT_MODEL_H

#include <stdint.h>
#include <quant/quant.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- models --- */

typedef struct qnt_model qnt_model;

/*
 * QNT_NOT_FOUND: no such path, or a file that belongs to it is missing; QNT_UNSUPPORTED: unknown family (the message
 * lists the known ones), quantized source; QNT_BAD_DATA: damaged, or tensors that do not fit the configuration.
 */
QNT_API qnt_status qnt_model_open(qnt_context *context, const char *path, qnt_model **model);
QNT_API void qnt_model_close(qnt_model *model);

typedef struct qnt_model_info {
    const char *path;
    const char *kind;                /* "Hugging Face folder", "GGUF", "native", "GPTQ folder", "AWQ folder" */
    const char *family, *architecture;
    size_t hidden, ffn, blocks, heads, kv_heads, head_dim, vocab, context;
    bool tied_head;
    uint64_t parameters, bytes;      /* of all tensors */
    double bits_per_weight;          /* of the blocks' linears */
} qnt_model_info;
QNT_API void qnt_model_get_info(const qnt_model *model, qnt_model_info *info);

/* Tensor `index` in the model's order; false beyond the last. Strings live as long as the model. */
typedef struct qnt_model_tensor {
    const char *name, *type;         /* type: "BF16", "q4_0", "native" ... */
    size_t rows, cols;
    double bits_per_weight;
    uint64_t bytes;
} qnt_model_tensor;
QNT_API bool qnt_model_get_tensor(const qnt_model *model, size_t index, qnt_model_tensor *tensor);

/* --- memory --- */

typedef struct qnt_memory_options {
    size_t size;                         /* sizeof(qnt_memory_options) or 0 */
    size_t context, batch;               /* tokens of a sequence (0: as the model has it), sequences (0: 1) */
    size_t tokens;                       /* that pass through the model at once; 0: context times batch */
    const char *method;                  /* the blocks' linears as this recipe leaves them in a native folder, all else
                                            in 16 bits; NULL: as they are stored, in f16 where there are no files */
    const char *kv;                      /* keys and values, "SCHEME:key=value,..."; NULL: as the model says, or f16 */
    size_t activation_bytes;             /* of an activation; 0: 4, as this library computes */
    uint64_t device_bytes;               /* 0: not asked */
    size_t lora_rank;                    /* of factors trained beside frozen linears; 0: none */
} qnt_memory_options;

/* Exact but for what is called an estimate. */
typedef struct qnt_memory {
    uint64_t parameters, linear_parameters, embedding_parameters, norm_parameters;   /* with their biases */
    uint64_t linear_bytes, embedding_bytes, norm_bytes, weight_bytes;   /* embedding: output matrix, positions too */
    size_t context;
    double kv_bytes_per_token;           /* the mean over the context, of one sequence */
    uint64_t kv_bytes;
    uint64_t activation_bytes;           /* an estimate: of one block, no scores of attention stored */
    uint64_t logit_bytes, inference_bytes;
    uint64_t evaluation_bytes;           /* an estimate: qnt_evaluate on `batch` windows of `context` */
    size_t longest_context;              /* of a sequence that device_bytes have room for; 0: none, or not asked */
    uint64_t stored_bytes, checkpoint_bytes;   /* estimates: activations for the way back, all, or inputs of blocks */
    uint64_t loss_bytes;                 /* logits of all tokens and their gradient */
    uint64_t lora_parameters;
} qnt_memory;

/* QNT_INVALID, QNT_NOT_FOUND: of method and kv, as for recipes. */
QNT_API qnt_status qnt_memory_of_model(const qnt_model *model, const qnt_memory_options *options, qnt_memory *memory);
/* The same of a config.json without weights. QNT_BAD_DATA, QNT_UNSUPPORTED as for qnt_model_open. */
QNT_API qnt_status qnt_memory_of_config(qnt_context *context, const char *path, const qnt_memory_options *options,
                                        qnt_memory *memory);

/* What optimizers keep of each parameter, in bytes; false beyond the last. Strings are static. */
typedef struct qnt_training_scheme {
    const char *name;
    double weight, gradient, master, moments;
} qnt_training_scheme;
QNT_API bool qnt_training_scheme_get(size_t index, qnt_training_scheme *scheme);

/* The first number that is not finite: QNT_NON_FINITE with tensor, row, column and count. Reads everything. */
QNT_API qnt_status qnt_model_check(const qnt_model *model);

/* --- progress --- */

typedef struct qnt_progress {
    const char *phase;               /* "check", "calibrate", "fisher", "quantize", "write", "verify", "evaluate" */
    const char *item;                /* layer or file in hand, or "" */
    double share;                    /* of the whole, 0 .. 1 */
    double seconds, seconds_left;    /* since the start; an estimate, < 0: unknown */
} qnt_progress;
typedef void (*qnt_progress_fn)(void *user, const qnt_progress *progress);

/* --- quantize --- */

typedef struct qnt_quantize_options {
    size_t size;                         /* sizeof(qnt_quantize_options) or 0 */
    const char *method;                  /* recipe; NULL: with calibration the format's, else rtn; "none": convert */
    const char *const *settings;         /* "key=value" or "method.key=value", as for qnt_recipe_set */
    size_t setting_count;
    const char *format;                  /* "native", "gguf:q4_0" ... */
    const char *output;                  /* folder or file; NULL: only a plan */
    const char *calibration;             /* text file, JSON lines, .npy of ids, or .safetensors of calibrations
                                            (qnt_model_measure) in their place; NULL: none */
    const char *importance;              /* importance matrix of llama.cpp, GGUF or .dat, in place of what the
                                            calibration measures; NULL: none */
    const char *scales;                  /* .safetensors of scales learned elsewhere: LINEAR.input_scale (1) and
                                            .input_zero_point, or .amax; LINEAR.weight_scale (1 or a row). They, and
                                            input_scale beside the source's weights, stand in place of what the recipe
                                            would choose; NULL: none */
    bool recalibrate;                    /* but these are not used */
    size_t samples, seqlen;              /* windows, tokens of each (3 or more); 0: 128, min(2048, context) */
    bool all_samples;                    /* as many windows as there are */
    bool random_windows;                 /* drawn with `seed` */
    uint64_t seed;
    const char *output_type, *embedding_type;   /* of the output matrix and the embedding; NULL: the format's rule */
    const char *const *include, *const *exclude; /* patterns of tensor names: glob, or "re:" and a PCRE2 expression */
    size_t include_count, exclude_count;
    const char *const *layers;           /* "PATTERN:key=value,..." : parameters of the layers that match; later win */
    size_t layer_count;
    const char *kv;                      /* "SCHEME:key=value,...", parameters of method kv_cache: a native folder
                                            tells its readers to keep keys and values in few bits; NULL: no */
    bool strict;                         /* no substitution, no fallback: an error instead */
    bool requantize;                     /* a source that is quantized already is taken by its values */
    bool force;                          /* replace an output, give up the finished blocks of another plan */
    bool no_verify;                      /* skip the end check of perplexity on the calibration's tail */
    const char *work;                    /* folder for finished blocks; NULL: OUTPUT.partial */
    uint64_t max_ram;                    /* most memory beyond mapped file pages: activations go to files; 0: any */
    uint64_t shard_bytes;                /* most bytes of a file of a folder format; 0: the format's rule */
    qnt_progress_fn progress;
    void *progress_user;
} qnt_quantize_options;

/* What every tensor becomes. Made before anything long begins; the model must outlive it, strings are copied. */
typedef struct qnt_plan qnt_plan;
QNT_API qnt_status qnt_plan_create(qnt_model *model, const qnt_quantize_options *options, qnt_plan **plan);
QNT_API void qnt_plan_destroy(qnt_plan *plan);

typedef struct qnt_plan_line {
    const char *tensor;                  /* source name */
    const char *type;                    /* target: "q4_0", "F32", "affine 4 bits" ... */
    const char *recipe;                  /* with its parameters; "" for what is only converted */
    const char *note;                    /* why it is not what was asked for, or "" */
    size_t rows, cols;
    uint64_t bytes;
} qnt_plan_line;
QNT_API bool qnt_plan_get_line(const qnt_plan *plan, size_t index, qnt_plan_line *line);

typedef struct qnt_plan_totals {
    const char *recipe, *stages;         /* "weights: gptq; correct: gptq" */
    const char *format, *calibration;
    size_t windows, seqlen, tokens;
    double bits_per_weight;              /* of the quantized tensors; 0: none is */
    uint64_t output_bytes, source_bytes;
    uint64_t memory_bytes;               /* peak, beyond mapped file pages; as max_ram has it */
    uint64_t least_memory_bytes;         /* the same with activations in files of the work folder: the least max_ram */
    uint64_t spill_bytes;                /* disk for these */
    uint64_t disk_bytes;                 /* output and work folder at their largest */
    uint64_t kv_bytes, activation_bytes; /* beside the output, to run it on one sequence of `context` tokens */
    size_t context;                      /* (qnt_memory) */
    double flops;                        /* of the calibration passes and the solvers */
    int passes;                          /* of the calibration text through the model */
} qnt_plan_totals;
QNT_API void qnt_plan_get_totals(const qnt_plan *plan, qnt_plan_totals *totals);

/*
 * Where both plans quantize the model's blocks in the same way, whatever they are stored as: `earlier`, which must be
 * run first, leaves its finished blocks in its work folder, and `plan` goes on with them there. Else *shared is false.
 */
QNT_API qnt_status qnt_plan_share(qnt_plan *plan, qnt_plan *earlier, bool *shared);

/*
 * Does it, or goes on where an earlier run of the same plan ended, to the same bytes. Finished blocks stay in the work
 * folder however a run ends, until the output is there. The output is written under a temporary name, read back,
 * compared and renamed. An output that this plan made already is no failure: nothing is done.
 * QNT_EXISTS: another output is there, or blocks of another plan (the message names what differs) and `force` is not
 * set; or another run has the work folder. QNT_IO: too little disk, with both numbers. QNT_CANCELLED: the message says
 * what is there.
 */
QNT_API qnt_status qnt_plan_run(qnt_plan *plan);

/* Everything about the plan and, after qnt_plan_run, the result, as JSON; owned by the plan. */
QNT_API qnt_status qnt_plan_report(qnt_plan *plan, const char **json);

/* --- formats --- */

typedef struct qnt_format_info {
    const char *name, *title;
    bool folder;                         /* writes a folder; else one file */
    double bits_per_weight;              /* of its blocks; 0: depends */
    const char *recipe;                  /* taken with calibration where the user names none */
    const char *preferred;               /* parameters taken where the user says nothing, "" if none */
} qnt_format_info;
QNT_API bool qnt_format_get(size_t index, qnt_format_info *info);

/* --- evaluate --- */

typedef struct qnt_eval_options {
    size_t size;                         /* sizeof(qnt_eval_options) or 0 */
    const char *text;                    /* text file, JSON lines, or .npy of ids */
    const char *protocol;                /* "llamacpp" (default), "gptq", "bos" */
    size_t ctx, chunks;                  /* tokens of a window (0: 512), windows used (0: all) */
    qnt_model *against;                  /* for KL divergence and top-1 agreement, or NULL */
    const char *kv;                      /* "SCHEME:key=value,...": keys and values pass through a cache of few bits
                                            (parameters of method kv_cache); NULL: as the model says */
    qnt_progress_fn progress;
    void *progress_user;
} qnt_eval_options;

typedef struct qnt_eval_result {
    size_t windows, ctx, scored;
    double nll, perplexity, perplexity_error;
    bool compared;
    double against_perplexity, mean_kl, kl_error, top1;
    double seconds;
} qnt_eval_result;
/*
 * QNT_INVALID: a text too short, with both numbers; unknown protocol; models of different vocabularies. QNT_NON_FINITE:
 * a weight, named, that is not finite.
 */
QNT_API qnt_status qnt_evaluate(qnt_model *model, const qnt_eval_options *options, qnt_eval_result *result);

/* --- what a run of a plan did beside its output --- */

typedef struct qnt_plan_outcome {
    bool already;                        /* the output was there before, made by the same plan */
    size_t blocks, resumed_blocks;       /* of the model; that an earlier run had finished */
    double seconds;
    qnt_eval_result verified;            /* against the source on the calibration's last windows; windows 0: was not */
} qnt_plan_outcome;
QNT_API void qnt_plan_get_outcome(const qnt_plan *plan, qnt_plan_outcome *outcome);

/* --- statistics of a model's sites, gathered apart from quantizing --- */

typedef struct qnt_measure_options {
    size_t size;                         /* sizeof(qnt_measure_options) or 0 */
    const char *calibration;             /* text and windows as in qnt_quantize_options */
    size_t samples, seqlen;
    bool all_samples, random_windows;
    uint64_t seed;
    const char *method;                  /* recipe whose statistics are gathered; NULL: moments and Hessians */
    const char *output;                  /* .safetensors: calibrations (quant/calib.h), each under the name of its
                                            site's first linear; .gguf, .dat: llama.cpp's importance matrix */
    bool force;                          /* replace an output that is there */
    uint64_t max_ram;                    /* as in qnt_quantize_options */
    qnt_progress_fn progress;
    void *progress_user;
} qnt_measure_options;

typedef struct qnt_measure_result {
    size_t sites, windows, seqlen;       /* sites: of an importance matrix, its entries; seqlen 0: not known */
    uint64_t tokens, skipped;            /* of all sites together; left out, for numbers that are not finite */
    uint64_t bytes;                      /* of the output */
} qnt_measure_result;

/*
 * One pass of the text through the unquantized model, the inputs of every site of every block. The output appears whole
 * or not at all. QNT_EXISTS: it is there and `force` is not set; QNT_INVALID: no such kind of file, a recipe that needs
 * more than inputs of the unquantized model, `max_ram` below the possible; else as for a plan.
 */
QNT_API qnt_status qnt_model_measure(qnt_model *model, const qnt_measure_options *options, qnt_measure_result *result);
/*
 * The sum of such files, all of one kind: what one run over all their texts gives. QNT_INVALID: models, sites, channels
 * or what was gathered differ; the message names file and site. `output` may be one of them if `force` is set.
 */
QNT_API qnt_status qnt_statistics_merge(qnt_context *context, const char *const *inputs, size_t count,
                                        const char *output, bool force, qnt_measure_result *result);

/* --- tokens --- */

/* Ids of a text as the model's tokenizer gives them; *ids is to be freed by qnt_free. */
QNT_API qnt_status qnt_model_encode(qnt_model *model, const char *text, size_t bytes, bool special, int32_t **ids,
                                    size_t *count);
QNT_API qnt_status qnt_model_decode(qnt_model *model, const int32_t *ids, size_t count, char **text);

#ifdef __cplusplus
}
#endif
#endif
